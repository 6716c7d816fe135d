//! What is answered while a coordinator that has just started waits for its servers: which ones, to all but those who ask
//! how it is.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use crate::missing::Missing;

/// What is answered as ever: the one does not need the servers, the other ones say by themselves what they cannot say.
const ANSWERED: [&str; 3] = ["/livez", "/health", "/metrics"];

/// Lets a request through when every server was reached.
pub(super) async fn until_reached(State(missing): State<Missing>, request: Request, next: Next) -> Response {
    let missing = missing.names().filter(|_| !ANSWERED.contains(&request.uri().path()));
    match missing {
        Some(missing) => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting",
            format!("this coordinator still waits for {missing}; try again in a few seconds"),
        )
        .into_response(),
        None => next.run(request).await,
    }
}
