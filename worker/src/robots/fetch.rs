//! Fetches a robots file and says what the answer means (RFC 9309, section 2.3.1).

use std::io::Read;
use std::time::Duration;

use crawlify_shared::domain::fault::FaultDomain;
use crawlify_shared::domain::outcome::Failure;
use crawlify_shared::store::hot::FetchedRobots;
use flate2::read::MultiGzDecoder;
use reqwest::Response;
use tokio::time::Instant;
use url::Url;

use super::agent::Agent;
use super::file::{MAX_BYTES, RobotsFile};
use crate::http::{self, Outlet, Sent, Unanswered};
use crate::page::redirects::Redirects;

/// How long all of it may take, redirects and body included, but not what redirects wait for their turns ([`Redirects::longest`]).
pub(super) const FETCH_WITHIN: Duration = Duration::from_secs(20);

/// Fetches a robots file.
///
/// # Errors
/// The site was not asked at all, for which it is not to blame: the workflow's proxy failed, or our own network is away.
pub(super) async fn fetch(
    outlet: &Outlet,
    file: &Url,
    agent: &Agent,
    redirects: Redirects<'_>,
) -> Result<FetchedRobots, Failure> {
    let deadline = Instant::now() + FETCH_WITHIN;
    let response = match outlet.get(file, Sent::Agent(agent), redirects, deadline).await {
        Ok(response) => response,
        // Section 2.3.1.2: after more than five redirects it counts as absent.
        Err(Unanswered::TooManyRedirects) => return Ok(absent(310)),
        Err(Unanswered::Failed(failure)) if failure.class.domain() == FaultDomain::Proxy => {
            return Err(failure);
        }
        Err(Unanswered::Failed(failure)) => return Ok(unreachable(failure.message)),
    };
    Ok(match response.status().as_u16() {
        status @ 200..=299 => match body(response).await {
            Ok(body) => {
                let crawl_delay = RobotsFile::parse(&body).crawl_delay(&agent.token);
                FetchedRobots::Answer { status, body: Some(body), crawl_delay }
            }
            Err(error) => unreachable(http::failure(&error).message),
        },
        // A server that asks for rest is not asked for everything at once. The RFC leaves that open.
        status @ (429 | 500..) => FetchedRobots::Unreachable {
            reason: format!("HTTP status {status}"),
            back_off: http::back_off(&response),
        },
        status => absent(status),
    })
}

fn unreachable(reason: String) -> FetchedRobots {
    FetchedRobots::Unreachable { reason, back_off: None }
}

/// There is none, which allows everything.
fn absent(status: u16) -> FetchedRobots {
    FetchedRobots::Answer { status, body: None, crawl_delay: Duration::ZERO }
}

/// As much of the body as is read of a robots file, and a byte more, by which reading it knows that it was cut.
async fn body(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() <= MAX_BYTES {
        let Some(chunk) = response.chunk().await? else { break };
        let room = MAX_BYTES + 1 - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    if !body.starts_with(b"\x1f\x8b") {
        return Ok(body);
    }
    // Nobody asked for compression, but some servers send nothing else. What cannot be unpacked was no robots file.
    let mut unpacked = Vec::new();
    let most = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
    let _ = MultiGzDecoder::new(body.as_slice()).take(most).read_to_end(&mut unpacked);
    Ok(unpacked)
}
