//! The OpenAPI description, collected from the routes themselves: what is not in it is not served.

use axum::Extension;
use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::{ContentBuilder, OpenApi as Description, Ref, RefOr, ResponseBuilder};

use super::problem::{ApiError, ProblemBody};
use super::query::Query;

/// What every route is added to.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Crawlify",
        description = "Workflows, executions and what they found. Errors are application/problem+json (RFC 9457)."
    ),
    components(schemas(ProblemBody)),
    tags(
        (name = "workflows", description = "Definitions of crawls"),
        (name = "executions", description = "Runs of workflows, and their data"),
        (name = "schedules", description = "When workflows are executed by themselves"),
        (name = "hosts", description = "What holds for each host, for all executions together"),
        (name = "system", description = "Probes, metrics, this description")
    )
)]
struct Document;

/// Begins the description.
pub(super) fn document(version: &str) -> Description {
    let mut document = Document::openapi();
    document.info.version = version.to_owned();
    document
}

/// The finished description, as it is sent.
#[derive(Clone)]
pub(super) struct Served(Bytes);

impl Served {
    /// Adds the answer that every operation may give, and writes it all down.
    pub(super) fn new(mut document: Description) -> Self {
        for item in document.paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            for operation in operations.into_iter().flatten() {
                operation.responses.responses.insert("default".to_owned(), problem_response());
            }
        }
        // The description is made of strings and maps, which always serialise.
        Self(Bytes::from(document.to_json().unwrap_or_default()))
    }
}

fn problem_response() -> RefOr<utoipa::openapi::Response> {
    let schema = Ref::from_schema_name("ProblemBody");
    ResponseBuilder::new()
        .description("What is wrong (RFC 9457)")
        .content("application/problem+json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
        .into()
}

/// Describes this API.
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    tag = "system",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(super) async fn serve(
    _: Query<()>,
    Extension(document): Extension<Served>,
) -> Result<impl IntoResponse, ApiError> {
    Ok(([(header::CONTENT_TYPE, "application/json")], document.0))
}
