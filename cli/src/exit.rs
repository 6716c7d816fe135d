//! How the program ends: one code for each kind of end, and what is said about it.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crawlify_shared::loops::BrokenLoop;

/// The exit codes, as documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// All went well.
    Ok = 0,
    /// The execution failed.
    ExecutionFailed = 1,
    /// The command line or a workflow file is wrong.
    Usage = 2,
    /// The crawl ended, but some of its pages could not be loaded.
    Partial = 3,
    /// A file or another thing that was named does not exist.
    NotFound = 4,
    /// The database or the broker cannot be reached.
    Unreachable = 69,
    /// A fault in Crawlify itself.
    Fault = BrokenLoop::EXIT_CODE as isize,
    /// Something on this machine is missing, taken or set wrongly.
    Configuration = 78,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// An end that is not the good one: what to tell the user, and the code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What happened and what to do, possibly several lines.
    pub message: String,
}

impl Failure {
    /// Makes a failure with a message of its own.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// That the process cannot go on without one of its loops.
    pub fn of_loop(broken: &BrokenLoop) -> Self {
        Self::of(Code::Fault, broken)
    }

    /// Makes a failure of an error and all its causes.
    pub fn of(code: Code, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries already say their cause.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
