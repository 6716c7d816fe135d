//! The servers that a coordinator has not reached since its start. The role crosses them out; while one is left the API says
//! which, instead of serving, and no loop runs. A server that goes away later is not missing: everybody can
//! wait for that, and probes look for themselves (`api/health.rs`).

use tokio::sync::watch;

/// A server that no coordinator can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Postgres, with the current schema.
    Database,
    /// RabbitMQ.
    Broker,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Database => "the database",
            Self::Broker => "the broker",
        }
    }
}

/// What is still missing. The role writes it, the API reads it.
#[derive(Clone, Debug)]
pub struct Missing(watch::Sender<Vec<Server>>);

impl Missing {
    /// Nothing: every server is there.
    pub fn nothing() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    /// Every server.
    pub fn everything() -> Self {
        Self(watch::Sender::new(vec![Server::Database, Server::Broker]))
    }

    /// Notes that this one is there.
    pub fn cross_out(&self, reached: Server) {
        self.0.send_modify(|missing| missing.retain(|server| *server != reached));
    }

    /// For people: `the database and the broker`. `None` when nothing is missing.
    pub(crate) fn names(&self) -> Option<String> {
        let names: Vec<_> = self.0.borrow().iter().map(|server| server.name()).collect();
        (!names.is_empty()).then(|| names.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_is_missing_no_more() {
        let missing = Missing::everything();
        let seen_by_the_api = missing.clone();
        assert_eq!(seen_by_the_api.names().unwrap(), "the database and the broker");
        missing.cross_out(Server::Database);
        assert_eq!(seen_by_the_api.names().unwrap(), "the broker");
        missing.cross_out(Server::Broker);
        assert_eq!(seen_by_the_api.names(), None);
        assert_eq!(Missing::nothing().names(), None);
    }
}
