//! Names that lead to private addresses: always, sometimes, or from some moment on.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crawlify_worker::egress::EgressOptions;
use crawlify_worker::egress::resolve::Resolver;
use harness::hostile::{Canary, HostileSite};

use super::Browser;

/// `moves.test` is the site at first, and the canary from then on.
#[derive(Debug, Default)]
struct Names {
    asked_for_moves: AtomicUsize,
}

const SITE: [u8; 4] = [127, 0, 0, 1];
const CANARY: [u8; 4] = [127, 0, 0, 2];

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(match name {
            "inside.test" => vec![IpAddr::from(CANARY)],
            "one-of-two.test" => vec![IpAddr::from(CANARY), IpAddr::from(SITE)],
            "moves.test" if self.asked_for_moves.fetch_add(1, Ordering::SeqCst) == 0 => {
                vec![IpAddr::from(SITE)]
            }
            "moves.test" => vec![IpAddr::from(CANARY)],
            _ => return Err(io::ErrorKind::NotFound.into()),
        })
    }
}

/// Visits each name at the site's port, where the canary listens too, and counts what reached the canary.
async fn hits(allowed: &[&str]) -> usize {
    let site = HostileSite::start().await;
    let port = site.address.port();
    let canary = Canary::at(&format!("127.0.0.2:{port}")).await;
    let allowed: Vec<_> = allowed.iter().map(|text| text.replace("PORT", &port.to_string())).collect();
    let allowed: Vec<_> = allowed.iter().map(String::as_str).collect();
    let options = EgressOptions {
        resolver: Arc::new(Names::default()),
        names_kept_for: Duration::ZERO,
        ..EgressOptions::allowing(&allowed).unwrap()
    };
    let browser = Browser::behind(Some(options)).await;
    for name in ["inside.test", "one-of-two.test"] {
        let _ = browser.visit(&format!("http://{name}:{port}/frame?img&x"), async || ()).await;
    }
    // The first visit is answered, and its page may be anything; the second finds the name moved.
    let first = browser.visit(&format!("http://moves.test:{port}/moved"), async || ()).await;
    assert!(first.is_ok(), "{first:?}");
    let browser = Browser {
        session: crawlify_worker::chrome::driver::Session {
            execution_id: crawlify_shared::domain::id::ExecutionId::generate(),
            ..browser.session
        },
        driver: browser.driver,
    };
    let _ = browser.visit(&format!("http://moves.test:{port}/moved"), async || ()).await;
    canary.hits()
}

#[tokio::test]
async fn names_that_lead_to_private_addresses_lead_nowhere() {
    assert_eq!(hits(&["127.0.0.1:PORT"]).await, 0);
    // The same names, where everything is allowed, do lead there.
    assert!(hits(&["0.0.0.0/0"]).await >= 3);
}
