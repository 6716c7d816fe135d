//! One running browser: its process, its line, its tabs, and how much it has been used. Never replaces itself.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::GetVersionParams;
use crawlify_shared::domain::outcome::ErrorClass;
use tokio::time::Instant;

use super::launch::{LaunchFailure, Launched};
use super::memory::{Place, Process, Weights, processes};
use super::tabs::{TabLimits, Tabs};
use crate::egress::Egress;

/// How often it is looked whether a browser has done its work; a fast crawl opens many pages between two pings.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked how much memory it has.
const WEIGH_EVERY: Duration = Duration::from_secs(2);
/// How long after the end of its process it may take until a tab is known to have gone.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked meanwhile.
const LOOK_FOR_CRASH_EVERY: Duration = Duration::from_millis(20);
/// How long a process that has too much memory may go on where it may be a tab's that is being closed. What all of the browser may
/// have holds meanwhile.
const SPARED_FOR: Duration = Duration::from_secs(3);
/// A browser that did not answer this many times in a row is dead.
const PINGS_MISSED: u32 = 2;
/// A browser none of whose last so many tabs opened is ill.
const TABS_NOT_OPENED: u64 = 8;
/// How long a first command may take after the first answer.
const PREPARATION_PATIENCE: Duration = Duration::from_secs(10);
/// So many pages that are read without being rendered count as one page.
const READS_PER_PAGE: u64 = 20;
/// How long an execution that has no page here keeps its context; its cookies it keeps for longer.
const CONTEXT_PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to ask for the cookies of contexts that go.
const PARKED_WITHIN: Duration = Duration::from_secs(1);

/// A running browser.
#[derive(Debug)]
pub(super) struct Browser {
    pub(super) launched: Launched,
    pub(super) tabs: Arc<Tabs>,
    /// What this one and those beside it weigh.
    place: Place,
    /// Navigations begun. Written by tabs, read by the supervisor.
    pages: AtomicU64,
    /// Pages read without being rendered, which wear a browser out far less.
    reads: AtomicU64,
    /// Tabs in a row that did not open.
    not_opened: AtomicU64,
    started: Instant,
}

/// How a browser is watched over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upkeep {
    /// It is replaced after this many pages.
    pub(super) pages: u64,
    /// It is replaced after this long.
    pub(super) age: Duration,
    /// It is replaced when it uses more bytes of memory than this, and killed when it uses a quarter more, or half as much more
    /// together with those that it replaced.
    pub(super) memory: u64,
    /// A process of pages is killed when it uses more bytes of memory than this: a document that is small on its way may be as large
    /// as it likes when it is unpacked.
    pub(super) page_memory: u64,
    /// Whether it goes on although it has done its work, as long as it lives.
    pub(super) until_lost: bool,
    /// How often it is asked whether it lives, and how long it may take to say so.
    pub(super) ping_every: Duration,
}

/// Why a browser is not watched over any longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchEnd {
    /// It has done its work: it has loaded enough pages, is old enough, or uses too much memory.
    Retired(&'static str),
    /// It died, no longer answers, or must not go on.
    Lost(&'static str),
}

impl Browser {
    /// Takes over what was launched.
    pub(super) async fn start(
        launched: Launched,
        limits: TabLimits,
        egress: Option<Arc<Egress>>,
        weights: &Weights,
    ) -> Result<Self, LaunchFailure> {
        let deadline = Instant::now() + PREPARATION_PATIENCE;
        match Tabs::start(launched.connection.clone(), limits, egress, deadline).await {
            Ok(tabs) => Ok(Self {
                place: weights.place(launched.id()),
                launched,
                tabs,
                pages: AtomicU64::new(0),
                reads: AtomicU64::new(0),
                not_opened: AtomicU64::new(0),
                started: Instant::now(),
            }),
            Err(error) => {
                launched.close().await;
                Err(std::io::Error::other(error).into())
            }
        }
    }

    /// Counts a navigation.
    pub(super) fn count_page(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how a tab opened: a browser that does not get any tab open is ill, whatever it answers.
    pub(super) fn note_opening(&self, failed: Option<ErrorClass>) {
        match failed {
            None => self.not_opened.store(0, Ordering::Relaxed),
            Some(ErrorClass::NavTimeout | ErrorClass::TabCrash) => {
                self.not_opened.fetch_add(1, Ordering::Relaxed);
            }
            // Of the page's own settings, or of the whole browser, which is noticed anyway.
            Some(_) => {}
        }
    }

    /// Counts a page that is read without being rendered.
    pub(super) fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when the browser is lost or has done its work.
    pub(super) async fn watch_over(&self, upkeep: Upkeep) -> WatchEnd {
        tokio::select! {
            () = self.launched.connection.lost() => WatchEnd::Lost("its pipe ended"),
            () = self.launched.exited() => WatchEnd::Lost("its process ended"),
            end = self.ping(upkeep) => end,
            end = self.watch_memory(upkeep) => end,
            never = self.look_around(upkeep) => match never {},
        }
    }

    fn has_done_its_work(&self, upkeep: Upkeep) -> Option<&'static str> {
        let reads = self.reads.load(Ordering::Relaxed) / READS_PER_PAGE;
        if self.pages.load(Ordering::Relaxed) + reads >= upkeep.pages {
            return Some("pages");
        }
        (self.started.elapsed() >= upkeep.age).then_some("age")
    }

    /// Looks how much memory it has. Pages that have far too much for themselves are ended, which harms no page in another process.
    /// Where no tab has gone with that, it was a frame of one: the whole browser goes, as the page would be recorded without it.
    async fn watch_memory(&self, upkeep: Upkeep) -> WatchEnd {
        // Processes that have too much, and may be of tabs that are being closed, which go by themselves.
        let mut spared: HashMap<i32, Instant> = HashMap::new();
        loop {
            tokio::time::sleep(WEIGH_EVERY.min(upkeep.ping_every)).await;
            let processes = processes(self.launched.id());
            let bytes: u64 = processes.iter().map(|process| process.bytes).sum();
            let heavy = processes.into_iter().filter(|process| process.bytes > upkeep.page_memory);
            let mut heavy: Vec<_> = heavy.filter(|process| process.is_of_pages()).collect();
            spared.retain(|pid, _| heavy.iter().any(|process| process.pid == *pid));
            if self.tabs.opener().is_closing() {
                for process in &heavy {
                    spared.entry(process.pid).or_insert_with(Instant::now);
                }
            }
            heavy
                .retain(|process| spared.get(&process.pid).is_none_or(|since| since.elapsed() >= SPARED_FOR));
            for process in &heavy {
                let (mib, most) = (process.bytes >> 20, upkeep.page_memory >> 20);
                tracing::warn!(mib, most, "a page uses too much memory: its process is ended");
                if !self.ends_with_a_tab(*process).await {
                    return WatchEnd::Lost("a part of a page used far too much memory");
                }
            }
            let gone: u64 = heavy.iter().map(|process| process.bytes).sum();
            let bytes = bytes - gone;
            if self.place.has_to_go(bytes, upkeep.memory, upkeep.until_lost) {
                return WatchEnd::Lost("far too much memory was used");
            }
            if bytes > upkeep.memory && !upkeep.until_lost {
                return WatchEnd::Retired("memory");
            }
        }
    }

    /// Ends a process, and tells whether a tab has gone with it.
    async fn ends_with_a_tab(&self, process: Process) -> bool {
        let opener = self.tabs.opener();
        let (crashed, begun) = (opener.crashed(), Instant::now());
        process.kill();
        while opener.crashed() == crashed && begun.elapsed() < TOLD_WITHIN {
            tokio::time::sleep(LOOK_FOR_CRASH_EVERY).await;
        }
        opener.crashed() > crashed
    }

    /// Leaves pages that are nobody's, and looks what the others load, whatever the browser itself does meanwhile.
    async fn look_around(&self, upkeep: Upkeep) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY.min(upkeep.ping_every)).await;
            self.tabs.leave_idle_pages();
            self.tabs.look_at_loads();
        }
    }

    async fn ping(&self, upkeep: Upkeep) -> WatchEnd {
        let mut missed = 0;
        let mut last_ping = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY.min(upkeep.ping_every)).await;
            let retired = self.has_done_its_work(upkeep);
            if let Some(reason) = retired.filter(|_| !upkeep.until_lost) {
                return WatchEnd::Retired(reason);
            }
            if self.not_opened.load(Ordering::Relaxed) >= TABS_NOT_OPENED {
                return WatchEnd::Lost("its tabs do not open");
            }
            if last_ping.elapsed() < upkeep.ping_every {
                continue;
            }
            last_ping = Instant::now();
            // One that is being replaced keeps its contexts until they are handed over.
            if !upkeep.until_lost {
                self.tabs.park_unused(CONTEXT_PATIENCE, last_ping + PARKED_WITHIN).await;
            }
            let deadline = Instant::now() + upkeep.ping_every;
            let answer = self.launched.connection.call(None, &GetVersionParams {}, deadline).await;
            let answer = match answer {
                Ok(_) => self.tabs.close_strangers(deadline).await,
                Err(error) => Err(error),
            };
            missed = if answer.is_ok() { 0 } else { missed + 1 };
            if missed >= PINGS_MISSED {
                return WatchEnd::Lost("it does not answer");
            }
        }
    }
}
