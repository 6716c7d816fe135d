//! What a crawl is, without any IO: workflows, their nodes, pages, outcomes, and the identity of URLs.

pub mod bounded;
pub mod fault;
pub mod id;
pub mod outcome;
pub mod page;
pub mod page_url;
pub mod regex_dialect;
pub mod schedule;
pub mod selector;
pub mod skip;
pub mod storable;
pub mod transform;
pub mod url_filter;
pub mod url_shape;
pub mod workflow;
