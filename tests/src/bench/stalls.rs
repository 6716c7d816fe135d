//! Whether the machine itself stood still: what a thread that does nothing but sleep missed. A figure that depends on
//! milliseconds means little without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SLEEP: Duration = Duration::from_millis(1);
/// What is no stall yet.
const USUAL: Duration = Duration::from_millis(5);

/// A thread that watches.
#[derive(Debug)]
pub struct Watch {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Stall>>,
}

/// A time in which the thread should have been woken, and was not.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// When it should have been.
    pub from: Instant,
    /// How much later it was.
    pub length: Duration,
}

impl Watch {
    /// Watches from now on.
    pub fn start() -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut stalls = Vec::new();
            while !watched.load(Ordering::Relaxed) {
                let from = Instant::now() + SLEEP;
                std::thread::sleep(SLEEP);
                let length = from.elapsed();
                if length > USUAL {
                    stalls.push(Stall { from, length });
                }
            }
            stalls
        });
        Self { ends, thread }
    }

    /// What was seen.
    pub fn end(self) -> Vec<Stall> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
