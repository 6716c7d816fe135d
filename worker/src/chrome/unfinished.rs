//! What was opened and is not prepared yet.

use chromiumoxide_cdp::cdp::browser_protocol::target::TargetId;

use super::attach::{AttachedTab, BrowserContext, Opener};

/// Closes what was opened when its preparation is given up half-way, also by being dropped.
pub(super) struct Unfinished<'a> {
    opener: &'a Opener,
    what: Option<Opened<'a>>,
}

/// What is closed.
pub(super) enum Opened<'a> {
    Context(BrowserContext),
    Target(TargetId),
    /// A target that is listened to; it is closed as [`Opened::Target`].
    Tab(&'a AttachedTab),
}

impl<'a> Unfinished<'a> {
    pub(super) fn new(opener: &'a Opener, what: Opened<'a>) -> Self {
        Self { opener, what: Some(what) }
    }

    /// It is prepared, and stays.
    pub(super) fn finish(mut self) {
        self.what = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        match self.what.take() {
            Some(Opened::Context(context)) => self.opener.dispose_context(&context),
            Some(Opened::Target(target)) => self.opener.give_up(target),
            Some(Opened::Tab(tab)) => self.opener.forget(tab),
            None => {}
        }
    }
}
