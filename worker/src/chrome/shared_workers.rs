//! Ends the service workers and shared workers of a browser context through which more goes than its pages may load. They are no
//! page's alone, so no page is to pay for them; pages that need one start it again. Looks at nothing else.

use chromiumoxide_cdp::cdp::browser_protocol::target::TargetInfo;

use super::attach::{BrowserContext, Opener};

/// The targets that pages of a site share.
const SHARED: [&str; 2] = ["service_worker", "shared_worker"];

/// Ends those of the contexts that load too much, of all targets that there are, without waiting.
pub(super) fn end_greedy(opener: &Opener, contexts: &[BrowserContext], targets: &[TargetInfo]) {
    for context in contexts.iter().filter(|context| context.loads_beyond_its_pages()) {
        let mut ended = 0;
        for target in targets {
            let is_its = target.browser_context_id.as_ref() == Some(&context.id);
            if is_its && SHARED.contains(&target.r#type.as_str()) {
                opener.close_target(target.target_id.as_ref());
                ended += 1;
            }
        }
        if ended > 0 {
            tracing::warn!(
                workers = ended,
                "an execution loads more than its pages may: service workers and shared workers of its sites were ended"
            );
        }
    }
}
