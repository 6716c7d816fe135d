//! The built-in demo shop and its small web server: something real to crawl on a machine without a network.
//!
//! The shop is made up at start from a fixed seed, so that it is the same on every machine and in every version. The
//! server can serve a folder of files instead. It listens on the loopback address only, and it knows nothing about
//! crawling.

mod catalogue;
mod folder;
mod pages;
mod picture;
mod random;
mod resource;
mod server;
mod shop;
mod words;

pub use catalogue::ExpectedItem;
pub use server::{Content, DemoSite};
pub use shop::Shop;

/// The workflow that crawls the demo shop, as in `examples/demo_shop.json`. Its start URL names
/// [`DEFAULT_PORT`]; a crawl of a site on another port replaces it.
pub const WORKFLOW: &str = include_str!("../../../examples/demo_shop.json");

/// Where the demo shop listens unless it is told otherwise, and what [`WORKFLOW`] expects.
pub const DEFAULT_PORT: u16 = 8090;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn ids(workflow: &Value, phase: &str) -> Vec<String> {
        let nodes = workflow["config"][phase].as_array().unwrap();
        nodes.iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_workflow_has_the_twenty_nodes_that_users_of_the_old_system_know() {
        let workflow: Value = serde_json::from_str(WORKFLOW).unwrap();
        assert_eq!(
            ids(&workflow, "url_discovery"),
            [
                "wait_for_page_load",
                "extract_category_links",
                "extract_book_links",
                "extract_pagination_next",
                "filter_discovered_urls",
            ]
        );
        assert_eq!(
            ids(&workflow, "data_extraction"),
            [
                "wait_for_book_details",
                "extract_book_title",
                "extract_book_price",
                "extract_currency",
                "extract_rating",
                "extract_availability",
                "extract_book_image",
                "extract_description",
                "extract_upc",
                "extract_product_type",
                "extract_price_excl_tax",
                "extract_price_incl_tax",
                "extract_tax",
                "extract_num_reviews",
                "extract_category",
            ]
        );
    }

    #[test]
    fn the_workflow_starts_where_the_shop_listens() {
        let workflow: Value = serde_json::from_str(WORKFLOW).unwrap();
        let start = format!("http://127.0.0.1:{DEFAULT_PORT}/");
        assert_eq!(workflow["config"]["start_urls"], serde_json::json!([start]));
    }
}
