//! What pages reach: where they may, and nothing else, whatever they try.

mod canary;
mod names;
mod own_addresses;
mod own_names;
mod packets;
mod program;
mod trying;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::outcome::Failure;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Block, Headers, Isolation, WaitUntil};
use crawlify_worker::chrome::driver::{Driver, Session};
use crawlify_worker::chrome::{ChromeDriver, ChromeOptions};
use crawlify_worker::egress::{Egress, EgressOptions};
use tokio::time::Instant;

/// How long a page may take to load on a machine that is busy with other things.
const LOADED_WITHIN: Duration = Duration::from_secs(20);

/// Where full browsers are, beside which a headless shell may be installed too.
const FULL_BROWSERS: [&str; 3] =
    ["/usr/lib/chromium/chromium", "/opt/google/chrome/chrome", "/usr/lib/chromium-browser/chromium-browser"];

/// Which browser it is to be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The one that crawls use on this machine.
    Usual,
    /// A full one: it has more parts than the headless shell, which may ask for more.
    Full,
}

impl Kind {
    fn program(self) -> Option<PathBuf> {
        let find = || FULL_BROWSERS.iter().map(PathBuf::from).find(|program| program.exists());
        match self {
            Kind::Usual => None,
            Kind::Full => Some(find().expect("there is no full browser; run `apt-get install chromium`")),
        }
    }
}

/// A browser, and the guard that it is behind.
struct Browser {
    driver: Arc<ChromeDriver>,
    session: Session,
}

impl Browser {
    async fn behind(options: Option<EgressOptions>) -> Self {
        Self::of(Kind::Usual, options).await
    }

    async fn of(kind: Kind, options: Option<EgressOptions>) -> Self {
        let egress = options.map(|options| Egress::start(options).unwrap());
        // Without the guard, what would keep UDP from working is taken away too; with it, that is not heeded. And the full
        // browser opens popups that nobody clicked for.
        let extra_flags = [
            "--webrtc-ip-handling-policy=default",
            "--force-webrtc-ip-handling-policy=default",
            "--disable-popup-blocking",
        ];
        let extra_flags = extra_flags.map(str::to_owned).to_vec();
        let options =
            ChromeOptions { program: kind.program(), egress, extra_flags, ..ChromeOptions::default() };
        let driver = ChromeDriver::start(options).await.unwrap();
        let session = Session {
            execution_id: ExecutionId::generate(),
            headers: Headers::default(),
            agent: None,
            block: Block::default(),
            isolation: Isolation::Execution,
            proxy: None,
        };
        Self { driver, session }
    }

    /// Whether it is the headless shell.
    fn is_headless_shell(&self) -> bool {
        self.driver.description().contains("headless shell")
    }

    /// Goes to an address in a tab, and calls `then` while the tab is there.
    async fn visit(&self, url: &str, then: impl AsyncFnOnce()) -> Result<(), Failure> {
        let soon = || Instant::now() + LOADED_WITHIN;
        let mut tab = self.driver.open(&self.session, soon()).await.unwrap();
        let url = PageUrl::parse(url).unwrap();
        let loaded = tab.navigate(&url, WaitUntil::DomContentLoaded, None, soon()).await;
        then().await;
        loaded.map(|_| ()).map_err(|error| error.failure)
    }
}
