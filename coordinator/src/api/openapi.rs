//! The OpenAPI description, collected from the routes themselves: what is not in it is not served.

use axum::Extension;
use axum::body::Bytes;
use axum::http::{Method, header};
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Description, Ref, RefOr, ResponseBuilder};

use super::access::needed;
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

/// The name of the way in which requests say who asks.
const KEY: &str = "api_key";

/// Begins the description.
pub(super) fn document(version: &str) -> Description {
    let mut document = Document::openapi();
    document.info.version = version.to_owned();
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "An API key with the scope that an operation names; of a coordinator without keys, nothing",
    ));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(key.build()));
    document
}

/// The finished description, as it is sent.
#[derive(Clone)]
pub(super) struct Served(Bytes);

impl Served {
    /// Adds the answer that every operation may give, and the key that it needs, and writes it all down.
    pub(super) fn new(mut document: Description) -> Self {
        for (path, item) in &mut document.paths.paths {
            let operations = [
                (Method::GET, &mut item.get),
                (Method::PUT, &mut item.put),
                (Method::POST, &mut item.post),
                (Method::DELETE, &mut item.delete),
                (Method::PATCH, &mut item.patch),
            ];
            for (method, operation) in operations {
                let Some(operation) = operation else { continue };
                operation.responses.responses.insert("default".to_owned(), problem_response());
                let scope =
                    needed(&method, path).map(|scope| SecurityRequirement::new(KEY, [scope.as_str()]));
                operation.security = Some(scope.into_iter().collect());
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
