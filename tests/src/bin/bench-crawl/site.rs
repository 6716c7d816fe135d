//! The site under test, in a process of its own, so that its work is not counted as ours.

use std::path::PathBuf;

use anyhow::Result;
use crawlify_cli::demo_site::{Content, DemoSite};

use crate::job::Line;

/// Serves the demo shop or a folder until the input ends.
///
/// # Errors
/// The folder cannot be read, or there is no port.
pub(crate) async fn serve(folder: Option<PathBuf>, mut line: Line) -> Result<()> {
    let site = DemoSite::start(0, folder.map_or(Content::Shop, Content::Folder)).await?;
    line.ready(Some(site.url())).await?;
    line.end().await;
    site.stop().await;
    Ok(())
}
