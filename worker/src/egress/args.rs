//! The guard's part of command lines.

use std::sync::Arc;

use clap::ValueEnum;
use crawlify_shared::config::{EGRESS_ALLOW, EGRESS_GUARD, chrome_flags};

use super::host_rules::HostRules;
use super::{Allowed, Egress, EgressError, EgressOptions};

/// How much a document may have where nothing else is said, in MiB.
const DOCUMENT_MIB: u64 = 32;

/// How much a page may load where nothing else is said, in MiB, and how many requests it may make.
const PAGE_MIB: u64 = 128;
const PAGE_REQUESTS: u64 = 4_000;

/// What pages may reach.
#[derive(Clone, Debug, clap::Args)]
pub struct EgressArgs {
    /// Keep pages from private addresses: `off` lets them reach whatever this machine reaches.
    #[arg(long, env = EGRESS_GUARD, value_name = "STATE", default_value = "on")]
    pub egress_guard: EgressGuard,
    /// What pages may reach although it is private: HOST:PORT, or a block of addresses such as 10.0.0.0/8 or
    /// 10.0.0.0/8:443; separated by commas, or given several times.
    #[arg(long, env = EGRESS_ALLOW, value_name = "WHERE", value_delimiter = ',')]
    pub egress_allow: Vec<Allowed>,
    /// A page whose document is larger than this fails; in MiB, as it is sent.
    #[arg(long, value_name = "MIB", default_value_t = DOCUMENT_MIB, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub max_document: u64,
    /// A page that loads more than this, with all its parts, fails; in MiB.
    #[arg(long, value_name = "MIB", default_value_t = PAGE_MIB, value_parser = clap::value_parser!(u64).range(1..=102_400))]
    pub max_page: u64,
    /// A page that makes more requests than this fails.
    #[arg(long, value_name = "COUNT", default_value_t = PAGE_REQUESTS, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_requests: u64,
}

/// Whether pages are kept from private addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EgressGuard {
    /// They are.
    On,
    /// They are not.
    Off,
}

impl EgressArgs {
    /// Sets the guard up, with `more` beside what the command line allows.
    ///
    /// # Errors
    /// As [`Egress::start`].
    pub fn start(&self, more: Vec<Allowed>) -> Result<Arc<Egress>, EgressError> {
        let guard = self.egress_guard == EgressGuard::On;
        if !guard {
            tracing::warn!(
                "the egress guard is off: pages can reach every address that this machine reaches"
            );
        }
        let allowed: Vec<_> = self.egress_allow.iter().cloned().chain(more).collect();
        for exception in &allowed {
            tracing::info!(allowed = %exception, "pages may reach this although it may be private");
        }
        Egress::start(EgressOptions {
            guard,
            allowed,
            document_bytes: self.max_document << 20,
            page_bytes: self.max_page << 20,
            page_requests: self.max_requests,
            resolver: Arc::new(HostRules::of_flags(&chrome_flags())),
            ..EgressOptions::default()
        })
    }
}
