//! The site that politeness is judged by: many hosts, which note when each was asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

/// Hosts on addresses of their own, all of this machine.
#[derive(Debug)]
pub struct PacedSite {
    /// Address and port of each host.
    pub hosts: Vec<String>,
    /// When each host was asked for a page, in that order.
    asked: Vec<Arc<Mutex<Vec<Instant>>>>,
    _servers: TaskTracker,
}

impl PacedSite {
    /// Serves so many hosts, from 127.0.1.1 on.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub async fn start(hosts: u8) -> std::io::Result<Self> {
        let mut site = Self { hosts: Vec::new(), asked: Vec::new(), _servers: TaskTracker::new() };
        for number in 1..=hosts {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 1, number), 0));
            let listener = TcpListener::bind(address).await?;
            site.hosts.push(listener.local_addr()?.to_string());
            let asked = Arc::new(Mutex::new(Vec::new()));
            site.asked.push(Arc::clone(&asked));
            let answer = get(move || {
                asked.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                async { "a page" }
            });
            let router = Router::new().fallback_service(answer);
            site._servers.spawn(async move { axum::serve(listener, router).await });
        }
        Ok(site)
    }

    /// When each host was asked so far.
    pub fn log(&self) -> Vec<Vec<Instant>> {
        self.asked.iter().map(|asked| asked.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}
