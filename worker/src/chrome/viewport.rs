//! What a tab lays out, and how little of it it paints: pages see a whole window, of which only a corner is drawn, for
//! nobody looks at it. To pages all is as before: sizes, media queries, observers, animation frames, clicks, scrolling.

use std::borrow::Cow;

use chromiumoxide_cdp::cdp::browser_protocol::emulation::SetDeviceMetricsOverrideParams;
use chromiumoxide_cdp::cdp::browser_protocol::page::GetLayoutMetricsParams;
use chromiumoxide_types::{Command, Method};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::connection::{CallError, Connection};

/// The corner's width and height. Nothing is drawn faster by less.
const PAINTED: i64 = 16;

/// `Emulation.setVisibleSize`, which the generated types leave out because it is marked as deprecated.
#[derive(Debug, Serialize)]
struct SetVisibleSize {
    width: i64,
    height: i64,
}

impl Method for SetVisibleSize {
    fn identifier(&self) -> Cow<'static, str> {
        "Emulation.setVisibleSize".into()
    }
}

impl Command for SetVisibleSize {
    type Response = Value;
}

/// Has a tab paint but a corner of its window. It then keeps its present size whatever becomes of the window.
///
/// # Errors
/// The browser or the tab is lost. A browser that cannot do this paints everything.
pub(super) async fn paint_a_corner(
    connection: &Connection,
    session: &str,
    deadline: Instant,
) -> Result<(), CallError> {
    match shrink(connection, session, deadline).await {
        Err(CallError::Refused(reason)) => {
            tracing::debug!(reason, "the browser paints whole windows");
            Ok(())
        }
        answer => answer,
    }
}

async fn shrink(connection: &Connection, session: &str, deadline: Instant) -> Result<(), CallError> {
    let on = Some(session);
    let metrics = connection.call(on, &GetLayoutMetricsParams {}, deadline).await?;
    let window = metrics.css_layout_viewport;
    if window.client_width < 1 || window.client_height < 1 {
        return Err(CallError::Refused("the window has no size".to_owned()));
    }
    // The scale of 0 is the browser's own.
    let mut layout =
        SetDeviceMetricsOverrideParams::new(window.client_width, window.client_height, 0.0, false);
    layout.dont_set_visible_size = Some(true);
    connection.call(on, &layout, deadline).await?;
    connection.call(on, &SetVisibleSize { width: PAINTED, height: PAINTED }, deadline).await?;
    Ok(())
}
