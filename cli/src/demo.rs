//! `crawlify demo`: the built-in workflow on the built-in shop. Needs no network.

use crawlify_shared::domain::workflow::parse_text;

use crate::args::DemoArgs;
use crate::crawl::crawl;
use crate::demo_site::{Content, DemoSite, WORKFLOW};
use crate::exit::{Code, Failure};
use crate::run::with_overrides;

/// Runs the command. Answers the exit code, and the summary for stderr.
pub(crate) async fn run(args: &DemoArgs) -> Result<(Code, String), Failure> {
    let definition = parse_text(WORKFLOW).map_err(|problems| {
        Failure::new(Code::Configuration, format!("the built-in workflow is broken: {problems:?}"))
    })?;
    let site = DemoSite::start(0, Content::Shop)
        .await
        .map_err(|error| Failure::new(Code::Configuration, format!("cannot serve the demo shop: {error}")))?;
    let ended = match with_overrides(definition, &[site.url()], &args.crawl) {
        Ok(definition) => crawl(&definition, &args.crawl).await,
        Err(failure) => Err(failure),
    };
    site.stop().await;
    let ended = ended?;
    Ok((ended.code, ended.text))
}
