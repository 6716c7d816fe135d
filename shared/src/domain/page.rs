//! A page in a worker's hands: as it was claimed, and as it is handed to the recorder.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::fault::{FaultDomain, Faults};
use super::id::{ExecutionId, PageId};
use super::outcome::{ErrorClass, Failure, PageOutcome, Rendered};
use super::page_url::{HostUnit, PageUrl};

/// A page that is ours until its lease ends.
#[derive(Clone, Debug)]
pub struct ClaimedPage {
    /// The frontier row.
    pub page_id: PageId,
    /// Its execution.
    pub execution_id: ExecutionId,
    /// The page's address.
    pub url: PageUrl,
    /// Links followed from a start URL.
    pub depth: u32,
    /// Higher ones are dispatched first.
    pub priority: i32,
    /// This attempt's number, from 1: a fence of the record.
    pub attempt: i32,
    /// The other fence: it rises whenever a page goes back, also where that takes the attempt back.
    pub epoch: i32,
    /// What went wrong with the attempts before.
    pub faults: Faults,
    /// In the database's clock.
    pub created_at: DateTime<Utc>,
    /// In the database's clock.
    pub claimed_at: DateTime<Utc>,
    /// The same moment by the clock of this process: exactly so for a host with a pace, else when the claim was answered.
    pub claimed_here: Instant,
    /// How long after its claim the host may be asked for the page.
    pub start_in: Duration,
    /// The unit of politeness that the page belongs to.
    pub host: String,
    /// What makes such units, for the links of the page.
    pub host_unit: HostUnit,
    /// Least time between two starts of the host's pages; zero where nobody asked for any.
    pub host_delay: Duration,
    /// Whether it is a sitemap, whose depth counts the sitemap indexes above it.
    pub is_sitemap: bool,
}

/// What the records of one workflow version's nodes have in common.
#[derive(Debug)]
pub struct NodeTable {
    /// In the order of execution, over all phases: indexed by `NodeRecord::position`.
    pub nodes: Vec<NodeDefinition>,
}

/// What the records of one node have in common.
#[derive(Debug)]
pub struct NodeDefinition {
    /// Its id in the workflow.
    pub node_id: String,
    /// Its type.
    pub node_type: &'static str,
    /// The id of its phase.
    pub phase: String,
    /// Its params, recorded as input.
    pub params: Map<String, Value>,
}

/// What becomes of the page's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStatus {
    /// The end: it was loaded.
    Completed,
    /// The end: it could not be loaded.
    Failed(Failure),
    /// The end: it must not be loaded.
    Skipped(Failure),
    /// Another attempt, not before the delay is over.
    Retry(Failure, Duration),
    /// Given back unharmed: the attempt is not charged.
    Released,
    /// The same, not before the delay is over. Until then the row says why.
    PutOff(Failure, Duration),
}

impl NextStatus {
    /// Whose fault it is that the page failed, also where it gets another attempt.
    pub fn fault(&self) -> Option<FaultDomain> {
        match self {
            // Of what a worker sees, only browsers make a page poison.
            Self::Failed(failure) if failure.class == ErrorClass::Poison => Some(FaultDomain::Browser),
            Self::Failed(failure) | Self::Retry(failure, _) => Some(failure.domain()),
            Self::Completed | Self::Skipped(_) | Self::Released | Self::PutOff(..) => None,
        }
    }
}

/// A page to record.
#[derive(Clone, Debug)]
pub struct FinishedPage {
    /// As it was claimed.
    pub page: ClaimedPage,
    /// The nodes that its records speak of.
    pub table: Arc<NodeTable>,
    /// What it produced.
    pub outcome: PageOutcome,
    /// What becomes of its row.
    pub next: NextStatus,
}

/// How one worker loads the pages of one shape for one phase, and why: what `render` `auto` has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderDecision {
    /// The phase's id.
    pub phase: String,
    /// The shape of the pages' URLs.
    pub shape: String,
    /// How pages are loaded now.
    pub mode: Rendered,
    /// A sentence on why.
    pub reason: String,
    /// Pages that were read as they came.
    pub static_pages: u64,
    /// Pages that were loaded in a tab.
    pub full_pages: u64,
    /// Pages that were loaded both ways.
    pub compared: u64,
    /// How often that, or a page that could not be read as it came, spoke against static pages.
    pub disagreed: u64,
}
