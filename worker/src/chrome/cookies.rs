//! Cookies on their way from one browser to the next.

use chromiumoxide_cdp::cdp::browser_protocol::network::{Cookie, CookieParam, TimeSinceEpoch};
use chromiumoxide_cdp::cdp::browser_protocol::storage::{GetCookiesParams, SetCookiesParams};
use tokio::time::Instant;

use super::attach::{BrowserContext, Opener};
use super::connection::CallError;

impl Opener {
    /// The cookies of a context, as another one takes them.
    pub(super) async fn cookies(
        &self,
        context: &BrowserContext,
        deadline: Instant,
    ) -> Result<Vec<CookieParam>, CallError> {
        let of_context = GetCookiesParams { browser_context_id: Some(context.id.clone()) };
        let cookies = self.connection().call(None, &of_context, deadline).await?.cookies;
        Ok(cookies.into_iter().map(handed_over).collect())
    }

    /// Gives cookies to a context; one that the browser does not take is left, so that it costs no page.
    pub(super) async fn give_cookies(
        &self,
        context: &BrowserContext,
        cookies: Vec<CookieParam>,
        deadline: Instant,
    ) {
        if cookies.is_empty() || self.set_cookies(context, cookies.clone(), deadline).await.is_ok() {
            return;
        }
        for cookie in cookies {
            if let Err(error) = self.set_cookies(context, vec![cookie], deadline).await {
                tracing::debug!(%error, "a cookie is not taken over");
            }
        }
    }

    async fn set_cookies(
        &self,
        context: &BrowserContext,
        cookies: Vec<CookieParam>,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let mut set = SetCookiesParams::new(cookies);
        set.browser_context_id = Some(context.id.clone());
        self.connection().call(None, &set, deadline).await.map(|_| ())
    }
}

/// A cookie as it is set. One of a host alone is named by an address, because a domain would have it sent to hosts below too.
fn handed_over(cookie: Cookie) -> CookieParam {
    let mut set = CookieParam::new(cookie.name, cookie.value);
    if cookie.domain.starts_with('.') {
        set.domain = Some(cookie.domain);
    } else {
        let scheme = if cookie.secure { "https" } else { "http" };
        set.url = Some(format!("{scheme}://{}{}", cookie.domain, cookie.path));
    }
    set.path = Some(cookie.path);
    set.secure = Some(cookie.secure);
    set.http_only = Some(cookie.http_only);
    set.same_site = cookie.same_site;
    set.expires = (!cookie.session).then(|| TimeSinceEpoch::new(cookie.expires));
    set.partition_key = cookie.partition_key;
    set
}
