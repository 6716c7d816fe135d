//! `crawlify demo-site`: serves the built-in shop or a folder until Ctrl-C.

use std::io::Write;

use crawlify_shared::signals::StopSignals;

use crate::args::DemoSiteArgs;
use crate::demo_site::{Content, DemoSite};
use crate::exit::{Code, Failure};

/// Runs the command.
pub(crate) async fn run(args: &DemoSiteArgs) -> Result<Code, Failure> {
    let content = match &args.dir {
        Some(folder) if !folder.is_dir() => {
            return Err(Failure::new(Code::NotFound, format!("{} is no folder", folder.display())));
        }
        Some(folder) => Content::Folder(folder.clone()),
        None => Content::Shop,
    };
    let cannot = |error: std::io::Error| Failure::new(Code::Configuration, error.to_string());
    let mut signals = StopSignals::listen().map_err(cannot)?;
    let site = DemoSite::start(args.port, content).await.map_err(cannot)?;
    // The one line on stdout, so that a script can read where it is.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", site.url()).and_then(|()| stdout.flush()).map_err(cannot)?;
    signals.next().await;
    site.stop().await;
    Ok(Code::Ok)
}
