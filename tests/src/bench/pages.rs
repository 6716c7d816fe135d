//! Finished pages as the demo shop gives them: the nodes of its workflow, with outputs of their usual lengths.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::Utc;
use crawlify_shared::domain::fault::Faults;
use crawlify_shared::domain::id::{ExecutionId, PageId};
use crawlify_shared::domain::outcome::{
    DiscoveredUrl, HostContact, NodeEnd, NodeRecord, PageEnd, PageOutcome, Rendered,
};
use crawlify_shared::domain::page::{ClaimedPage, FinishedPage, NextStatus, NodeDefinition, NodeTable};
use crawlify_shared::domain::page_url::{HostUnit, PageUrl};
use crawlify_shared::domain::workflow::Workflow;
use serde_json::{Value, json};

const LINKS: usize = 20;
/// URLs that are in the frontier already. As each page is found once, 19 of 20 links lead to one of them.
pub const KNOWN_URLS: usize = 1_000;

/// The nodes of a workflow, as records of them need them.
pub fn node_table(workflow: &Workflow) -> NodeTable {
    let nodes = workflow.phases.iter().flat_map(|phase| {
        phase.nodes.iter().map(|node| NodeDefinition {
            node_id: node.id.clone(),
            node_type: node.action.node_type(),
            phase: phase.id.clone(),
            params: node.params.clone(),
        })
    });
    NodeTable { nodes: nodes.collect() }
}

/// A page that went well, with a URL of its own by its number.
///
/// # Errors
/// A URL is none.
pub fn finished_page(
    execution_id: ExecutionId,
    number: usize,
    table: &Arc<NodeTable>,
) -> Result<FinishedPage> {
    let now = Utc::now();
    let page = ClaimedPage {
        page_id: PageId::generate(),
        execution_id,
        url: PageUrl::parse(&format!("http://127.0.0.1:8090/book/a-title-of-usual-length-{number}/"))?,
        depth: 3,
        priority: -30,
        attempt: 1,
        epoch: 0,
        faults: Faults::default(),
        created_at: now,
        claimed_at: now,
        claimed_here: Instant::now(),
        start_in: Duration::ZERO,
        host: "127.0.0.1".to_owned(),
        host_unit: HostUnit::Host,
        host_delay: Duration::ZERO,
        is_sitemap: false,
    };
    let mut nodes = Vec::with_capacity(table.nodes.len());
    let mut started_at = now;
    for (position, node) in table.nodes.iter().enumerate() {
        let completed_at = started_at + Duration::from_micros(300);
        let end = NodeEnd::Completed(output(&node.node_id, number));
        nodes.push(NodeRecord {
            position: u16::try_from(position)?,
            started_at,
            completed_at,
            end,
            retries: 0,
        });
        started_at = completed_at;
    }
    let item = json!({
        "title": output("extract_book_title", number), "price": 51.77, "currency": "GBP", "rating": "Three",
        "availability": "In stock (22 available)", "image_url": output("extract_book_image", number),
        "description": output("extract_description", number), "upc": output("extract_upc", number),
        "product_type": "Books", "price_excl_tax": 51.77, "price_incl_tax": 51.77, "tax": 0, "num_reviews": 0,
        "category": "Poetry",
    });
    // One link of each page is new.
    let links = (1..LINKS).map(|link| known_url((number * 7 + link * 13) % KNOWN_URLS));
    let new = PageUrl::parse(&format!("http://127.0.0.1:8090/book/a-new-link-of-page-{number}/"));
    let discovered = links
        .chain([new.map_err(Into::into)])
        .map(|url| {
            Ok(DiscoveredUrl {
                url: url?,
                discovered_by: "extract_book_links".to_owned(),
                skipped: None,
                is_sitemap: false,
            })
        })
        .collect::<Result<_>>()?;
    let outcome = PageOutcome {
        end: PageEnd::Completed,
        nodes,
        item: Some(item),
        discovered,
        final_url: Some(page.url.as_str().to_owned()),
        rendered: Rendered::Full,
        contact: HostContact::default(),
        bytes: 0,
        received: None,
    };
    Ok(FinishedPage { page, table: Arc::clone(table), outcome, next: NextStatus::Completed })
}

/// The URL of a page that is in the frontier already.
///
/// # Errors
/// It is none.
pub fn known_url(number: usize) -> Result<PageUrl> {
    Ok(PageUrl::parse(&format!("http://127.0.0.1:8090/book/a-book-that-is-known-{number}/"))?)
}

/// A node's output, as long as the demo shop's outputs are on average.
fn output(node_id: &str, number: usize) -> Value {
    const SENTENCE: &str = "A lonely lighthouse keeper finds a letter that was never meant for him. ";
    match node_id {
        "extract_category_links" => links(6),
        "extract_book_links" => links(14),
        "extract_pagination_next" => json!([]),
        "filter_discovered_urls" => json!({"kept": 20, "dropped": 2, "dropped_urls": []}),
        "extract_book_title" => json!(format!("The Quiet Harbour, volume {number}")),
        "extract_book_price" | "extract_price_excl_tax" | "extract_price_incl_tax" => json!(51.77),
        "extract_tax" | "extract_num_reviews" => json!(0),
        "extract_currency" => json!("GBP"),
        "extract_rating" => json!("Three"),
        "extract_availability" => json!("In stock (22 available)"),
        "extract_book_image" => json!(format!("http://127.0.0.1:8090/media/{number:08}.png")),
        "extract_description" => json!(format!("{number}. {}", SENTENCE.repeat(8))),
        "extract_upc" => json!(format!("a897fe39b10{number:05}")),
        "extract_product_type" => json!("Books"),
        "extract_category" => json!("Poetry"),
        _ => Value::Null,
    }
}

fn links(count: usize) -> Value {
    (0..count).map(|link| format!("/book/a-book-that-is-known-{link}/")).collect::<Vec<_>>().into()
}
