//! The guard's part of command lines.

use std::sync::Arc;

use clap::ValueEnum;
use crawlify_shared::config::{EGRESS_ALLOW, EGRESS_GUARD, chrome_flags};

use super::host_rules::HostRules;
use super::{Allowed, Egress, EgressError, EgressOptions};

/// How much a document may have where nothing else is said, in MiB.
const DOCUMENT_MIB: u64 = 32;

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
            resolver: Arc::new(HostRules::of_flags(&chrome_flags())),
            ..EgressOptions::default()
        })
    }
}
