//! Names that lead to private addresses: always, sometimes, or from some moment on. Each has a canary of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use crawlify_shared::domain::outcome::ErrorClass;
use crawlify_worker::egress::EgressOptions;
use crawlify_worker::egress::resolve::Resolver;
use harness::answering_site::{AnsweringSite, text};
use harness::hostile::Canary;
use harness::wait::wait_for;

use super::Browser;

const SITE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const CANARY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PATIENCE: Duration = Duration::from_secs(15);
/// Where a page of the site tells what came of its second request, with the status.
const TOLD: &str = "/told/";

/// Knows the names of this file.
#[derive(Debug, Default)]
struct Names {
    /// Whether `moves.test` is the canary by now, and no longer the site. Written by the site.
    has_moved: Arc<AtomicBool>,
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(match name {
            "inside.test" => vec![CANARY.into()],
            "one-of-two.test" => vec![CANARY.into(), SITE.into()],
            "moves.test" if self.has_moved.load(Ordering::SeqCst) => vec![CANARY.into()],
            "moves.test" => vec![SITE.into()],
            _ => return Err(io::ErrorKind::NotFound.into()),
        })
    }
}

/// A browser behind the guard, which lets it reach the site's address, or every one.
async fn browser(is_guarded: bool, names: Names) -> Browser {
    let allowed = if is_guarded { "127.0.0.1" } else { "0.0.0.0/0" };
    let options = EgressOptions::allowing(&[allowed]).unwrap();
    let names_kept_for = Duration::ZERO;
    Browser::behind(Some(EgressOptions { resolver: Arc::new(names), names_kept_for, ..options })).await
}

#[tokio::test]
async fn names_that_lead_to_private_addresses_lead_nowhere() {
    // The same names, where everything is allowed, do lead there.
    for is_guarded in [true, false] {
        let browser = browser(is_guarded, Names::default()).await;
        for name in ["inside.test", "one-of-two.test"] {
            let canary = Canary::at(&format!("{CANARY}:0")).await;
            let url = format!("http://{name}:{}/", canary.address.port());
            let failed = browser.visit(&url, async || ()).await.err().map(|failure| failure.class);
            assert_eq!(failed, is_guarded.then_some(ErrorClass::SsrfBlocked), "{name}");
            assert_eq!(canary.hits() > 0, !is_guarded, "{name}");
        }
    }
}

/// Asks for its own name once more, and tells the site, by its address, what came of it.
fn page_that_asks_again(site: &str) -> String {
    format!(
        "<!doctype html><link rel=icon href='data:,'><h1>moves</h1><script>addEventListener('load', () => \
         fetch('/again', {{ cache: 'no-store' }}).then((answer) => answer.status, () => 0)\
         .then((status) => {{ new Image().src = '{site}{TOLD}' + status }}))</script>"
    )
}

#[tokio::test]
async fn a_page_whose_name_moves_while_it_is_open_reaches_nothing_by_it() {
    for is_guarded in [true, false] {
        let names = Names::default();
        let has_moved = Arc::clone(&names.has_moved);
        let site = AnsweringSite::start(move |origin, path| match path {
            "/" => {
                has_moved.store(true, Ordering::SeqCst);
                // The connection ends with the page, so that the next request needs a new one.
                ([(header::CONNECTION, "close")], Html(page_that_asks_again(origin))).into_response()
            }
            _ => text(""),
        })
        .await;
        let port = url::Url::parse(&site.url("/")).unwrap().port().unwrap();
        let canary = Canary::at(&format!("{CANARY}:{port}")).await;
        let browser = browser(is_guarded, names).await;
        let told = || {
            let asked = site.requests().into_iter();
            asked.map(|(path, _)| path).find(|path| path.starts_with(TOLD))
        };
        let url = format!("http://moves.test:{port}/");
        let visited = browser.visit(&url, async || {
            wait_for("the page has asked again", PATIENCE, async || told().is_some()).await;
        });
        visited.await.unwrap();
        let status = if is_guarded { "403" } else { "200" };
        assert_eq!(told(), Some(format!("{TOLD}{status}")));
        assert_eq!(canary.hits() > 0, !is_guarded);
        assert_eq!(site.asked_for("/again"), 0, "its name has moved by then");
    }
}
