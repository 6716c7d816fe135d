//! Downloads a sitemap as a stream, unpacked on the way where it is packed. Never holds more of it than a buffer.

use std::io::Error;
use std::time::Duration;

use async_compression::tokio::bufread::GzipDecoder;
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::workflow::Workflow;
use futures_util::TryStreamExt;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::Instant;
use tokio_util::io::StreamReader;
use url::Url;

use super::parse::MAX_BYTES;
use crate::http::{self, Outlet, Sent};
use crate::page::redirects::Redirects;

/// A sitemap on its way.
pub(super) struct Download {
    /// The address after redirects.
    pub(super) final_url: Url,
    /// The document, which ends after one byte more than it may have.
    pub(super) document: Box<dyn AsyncBufRead + Send + Unpin>,
}

/// There is nothing to read.
pub(super) struct Absent {
    pub(super) failure: Failure,
    /// The host wants to be left alone for at least this long.
    pub(super) back_off: Option<Duration>,
}

impl From<Failure> for Absent {
    fn from(failure: Failure) -> Self {
        Self { failure, back_off: None }
    }
}

/// Begins to download a sitemap, with the headers of the workflow that may go there.
pub(super) async fn download(
    outlet: &Outlet,
    url: &Url,
    workflow: &Workflow,
    redirects: Redirects<'_>,
    deadline: Instant,
) -> Result<Download, Absent> {
    let sent = Sent::Workflow(workflow);
    let response = outlet.get(url, sent, redirects, deadline).await.map_err(Failure::from)?;
    let status = response.status().as_u16();
    if !response.status().is_success() {
        let failure = Failure::of_status(status);
        return Err(Absent { failure, back_off: http::back_off(&response) });
    }
    let final_url = response.url().clone();
    let mut body = BufReader::new(StreamReader::new(response.bytes_stream().map_err(Error::other)));
    // By its first bytes: whether it is packed is written in the name, or in either of two headers, or nowhere.
    let start = body.fill_buf().await.map_err(|error| broken_off(&error))?;
    let document: Box<dyn AsyncBufRead + Send + Unpin> = if start.starts_with(b"\x1f\x8b") {
        let mut unpacked = GzipDecoder::new(body);
        unpacked.multiple_members(true);
        Box::new(BufReader::new(unpacked.take(MAX_BYTES + 1)))
    } else {
        Box::new(body.take(MAX_BYTES + 1))
    };
    Ok(Download { final_url, document })
}

/// What it says to the user that a document could not be read on. Only the connection may do better another time.
pub(super) fn broken_off(error: &Error) -> Failure {
    match error.get_ref().and_then(|error| error.downcast_ref::<reqwest::Error>()) {
        Some(error) => http::failure(error),
        None => Failure::new(ErrorClass::NotAPage, error.to_string()),
    }
}
