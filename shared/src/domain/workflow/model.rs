//! The normalised workflow. Whoever holds one may rely on it: ids are unique within their phase, dependencies exist
//! and form no cycle, `nodes` is in the order of execution, selectors and patterns were checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Problem;
use super::act::Act;
use super::budgets::Budgets;
use super::headers::Headers;
use super::proxy::Proxy;
use super::scheduling::Share;
use super::traps::Traps;
use crate::domain::page_url::{HostUnit, PageUrl};
use crate::domain::transform::Transform;
use crate::domain::url_filter::UrlFilter;

/// A workflow, parsed and checked.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// The name that its author gave it.
    pub name: String,
    /// Free text, possibly empty.
    pub description: String,
    /// Where a crawl begins, each at depth 0.
    pub start_urls: Vec<PageUrl>,
    /// What else a crawl begins with.
    pub sitemaps: Sitemaps,
    /// Whether the sites' robots files are obeyed.
    pub robots: Robots,
    /// How far and how fast a crawl may go.
    pub limits: Limits,
    /// What it may spend.
    pub budgets: Budgets,
    /// How much of the fleet it gets.
    pub share: Share,
    /// Which links are not followed because there may be no end of them.
    pub traps: Traps,
    /// Request headers sent with every request; `User-Agent` overrides the browser's own.
    pub headers: Headers,
    /// As whom the crawl asks, beside the browser: begins with the name by which robots files address it. `None` is the browser
    /// alone, or the `User-Agent` that is among the headers.
    pub agent: Option<String>,
    /// When a navigation counts as done.
    pub wait_until: WaitUntil,
    /// What is not loaded with a page.
    pub block: Block,
    /// What pages share.
    pub isolation: Isolation,
    /// The proxy that the author wants pages to be requested through.
    pub proxy: Option<Proxy>,
    /// The groups of nodes, in the order of execution.
    pub phases: Vec<Phase>,
    /// What was accepted but will not do what its author may expect.
    pub warnings: Vec<Problem>,
}

/// How far and how fast a crawl may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Discovery runs on pages with a depth less than this; `None` is no limit.
    pub max_depth: Option<u32>,
    /// At most this many pages are ever dispatched; `None` is no limit.
    pub max_pages: Option<u64>,
    /// The least time between the starts of two pages of one host; zero is no limit.
    pub rate_limit_delay: Duration,
    /// At most this many pages of one host at once; `None` is no limit.
    pub host_concurrency: Option<u32>,
    /// Whether a host is asked more rarely when it answers slowly: two starts are then at least one answer's time apart.
    pub adaptive_delay: bool,
    /// What counts as one host.
    pub host_unit: HostUnit,
}

/// Sitemaps, whose URLs are pages of depth 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sitemaps {
    /// Those that the workflow names.
    pub urls: Vec<PageUrl>,
    /// Whether those count as well that the robots files of the start URLs name.
    pub from_robots: bool,
}

/// What is done about robots.txt (RFC 9309).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Robots {
    /// What it disallows is not loaded, and its pace is kept.
    Obey,
    /// It is not read.
    Ignore,
}

impl Robots {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Obey, Self::Ignore];

    /// The name in workflow files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Obey => "obey",
            Self::Ignore => "ignore",
        }
    }
}

/// When a navigation counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WaitUntil {
    /// The document is parsed.
    DomContentLoaded,
    /// The `load` event has fired.
    #[default]
    Load,
    /// No request was in flight for 500 ms after `load`.
    NetworkIdle,
}

/// How a page is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Render {
    /// Navigated to: scripts, styles, layout.
    #[default]
    Full,
    /// Fetched and parsed by the browser, and no more: no scripts, no layout, no resources.
    Static,
    /// Static where pages of the same shape have given the same both ways, full elsewhere.
    Auto,
}

impl Render {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Full, Self::Static, Self::Auto];

    /// The name in workflow files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Static => "static",
            Self::Auto => "auto",
        }
    }
}

/// What is not loaded with a page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Block {
    /// By kind, each once.
    pub kinds: Vec<ResourceKind>,
    /// By URL; `*` stands for any text, also none.
    pub patterns: Vec<String>,
}

impl Block {
    /// Whether everything is loaded.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.patterns.is_empty()
    }
}

/// A kind of resource that a page loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// Pictures, those of styles included.
    Image,
    /// Style sheets.
    Stylesheet,
    /// Fonts.
    Font,
    /// Audio and video.
    Media,
    /// Scripts in files of their own.
    Script,
}

impl ResourceKind {
    /// Every kind that can be blocked.
    pub const ALL: [Self; 5] = [Self::Image, Self::Stylesheet, Self::Font, Self::Media, Self::Script];

    /// The name in workflow files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Stylesheet => "stylesheet",
            Self::Font => "font",
            Self::Media => "media",
            Self::Script => "script",
        }
    }
}

/// What pages of an execution share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// Cookies, storage and cache, within the execution.
    #[default]
    Execution,
    /// Nothing: each page has a browser context of its own.
    Page,
}

/// What a phase is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseKind {
    /// Finds links. It does not run on pages at the depth limit.
    Discovery,
    /// Reads data.
    Extraction,
}

impl PhaseKind {
    /// The name in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Extraction => "extraction",
        }
    }
}

/// A group of nodes. A failed node that is not optional ends its own phase, not the page.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Unique within the workflow.
    pub id: String,
    /// What it is for.
    pub kind: PhaseKind,
    /// How pages are loaded that it runs on. One phase that needs a full page makes the page a full one for all.
    pub render: Render,
    /// In the order of execution: every node after its dependencies, otherwise as declared.
    pub nodes: Vec<Node>,
}

/// One step that a page goes through.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique within its phase.
    pub id: String,
    /// For people; the id where its author gave none.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Its `params` as its author wrote them, recorded as the input of each run.
    pub params: Map<String, Value>,
    /// Indexes into the phase's `nodes`, all less than this node's own.
    pub dependencies: Vec<usize>,
    /// Under which key its output is saved in the page's item.
    pub output_key: Option<String>,
    /// Whether the nodes after it run although it failed.
    pub optional: bool,
    /// How often and how fast it is run again after a failure.
    pub retry: Retry,
}

/// How often and how fast a failed node is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Retry {
    /// 0 runs it once.
    pub max_retries: u16,
    /// The pause before each further run.
    pub delay: Duration,
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Waits for an element's state.
    WaitFor(WaitFor),
    /// Pauses.
    Wait(Duration),
    /// Collects the `href` of matching elements and gives them to the frontier.
    ExtractLinks(Selector),
    /// Keeps some of the links that its dependencies found. Runs outside the page.
    FilterUrls(UrlFilter),
    /// Reads a value from the page.
    Extract(Extract),
    /// Does something to the page, as a person would.
    Act(Act),
}

impl Action {
    /// The node type's name, as in workflow files, rows and metrics.
    pub fn node_type(&self) -> &'static str {
        match self {
            Self::WaitFor(_) => "wait_for",
            Self::Wait(_) => "wait",
            Self::ExtractLinks(_) => "extract_links",
            Self::FilterUrls(_) => "filter_urls",
            Self::Extract(_) => "extract",
            Self::Act(Act::Click(_)) => "click",
            Self::Act(Act::Hover(_)) => "hover",
            Self::Act(Act::Type { .. }) => "type",
            Self::Act(Act::Scroll(_)) => "scroll",
        }
    }
}

/// Every node type that can be executed, for metrics and messages.
pub const NODE_TYPES: [&str; 9] =
    ["wait_for", "wait", "extract_links", "filter_urls", "extract", "click", "hover", "type", "scroll"];

/// A selector that passed what can be checked without a browser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "engine", content = "query", rename_all = "snake_case")]
pub enum Selector {
    /// A CSS selector list.
    Css(String),
    /// An XPath expression, written `xpath=...` or `//...`.
    Xpath(String),
}

impl Selector {
    /// The expression, without its engine.
    pub fn query(&self) -> &str {
        match self {
            Self::Css(query) | Self::Xpath(query) => query,
        }
    }
}

/// The parameters of `wait_for`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitFor {
    /// Which element; the first match counts.
    pub selector: Selector,
    /// What is waited for.
    pub state: ElementState,
    /// How long, in milliseconds.
    #[serde(rename = "timeout_ms", serialize_with = "as_millis")]
    pub timeout: Duration,
}

/// A state to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementState {
    /// In the document, with a box, and not hidden by style.
    #[default]
    Visible,
    /// Not in the document, or not visible.
    Hidden,
    /// In the document.
    Attached,
}

/// The parameters of `extract`.
#[derive(Clone, Debug)]
pub struct Extract {
    /// Which elements.
    pub selector: Selector,
    /// What is read from each element.
    pub read: Read,
    /// All matches as an array, or the first match alone.
    pub multiple: bool,
    /// With `multiple`: an object for each element instead of a value.
    pub fields: Vec<Field>,
    /// Applied to each string that was read, in order.
    pub transforms: Vec<Transform>,
    /// Used where nothing matches; without it a single `extract` fails then.
    pub default_value: Option<Value>,
}

/// One key of the objects that an `extract` with `fields` makes.
#[derive(Clone, Debug)]
pub struct Field {
    /// The key.
    pub name: String,
    /// Relative to the element; `None` is the element itself.
    pub selector: Option<Selector>,
    /// What is read.
    pub read: Read,
    /// Applied to the string that was read.
    pub transforms: Vec<Transform>,
    /// Used where nothing matches; without it the key is left out.
    pub default_value: Option<Value>,
}

/// What is read from an element.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "read", content = "name", rename_all = "snake_case")]
pub enum Read {
    /// `textContent`, untrimmed.
    Text,
    /// `innerHTML`.
    Html,
    /// An attribute as written, not resolved; empty where the element lacks it.
    Attribute(String),
}

pub(super) fn as_millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
