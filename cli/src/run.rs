//! `crawlify run`: reads the workflow, applies the command line's overrides, crawls.

use std::path::Path;

use crawlify_shared::domain::workflow::{Definition, parse_document, parse_text};
use serde_json::{Value, json};

use crate::args::{CrawlArgs, RunArgs};
use crate::crawl::crawl;
use crate::exit::{Code, Failure};
use crate::validate::report;

/// Runs the command. Answers the exit code, and the summary for stderr.
///
/// # Errors
/// Everything that keeps the crawl from running.
pub(crate) async fn run(args: &RunArgs) -> Result<(Code, String), Failure> {
    let text = read(&args.file)?;
    let definition = parse_text(&text).map_err(|problems| {
        Failure::new(Code::Usage, report(&args.file.display().to_string(), &text, &problems, &[]))
    })?;
    let definition = with_overrides(definition, &args.start_urls, &args.crawl)?;
    let ended = crawl(&definition, &args.crawl).await?;
    Ok((ended.code, ended.text))
}

/// Reads a workflow file.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Usage };
        Failure::new(code, format!("cannot read {}: {error}", file.display()))
    })
}

/// The same workflow with what the command line says instead of what the file says.
pub(crate) fn with_overrides(
    definition: Definition,
    start_urls: &[String],
    args: &CrawlArgs,
) -> Result<Definition, Failure> {
    let mut config = definition.config;
    let given = |texts: &[String]| (!texts.is_empty()).then(|| json!(texts));
    let overrides = [
        ("start_urls", "--start-url", given(start_urls)),
        ("max_pages", "--max-pages", args.max_pages.map(Value::from)),
        ("max_depth", "--max-depth", args.max_depth.map(Value::from)),
        ("rate_limit_delay", "--rate-limit-delay", args.rate_limit_delay.map(Value::from)),
        ("render", "--render", args.render.as_deref().map(Value::from)),
        ("block", "--block", given(&args.block)),
    ];
    for (key, _, value) in &overrides {
        if let Some(value) = value {
            config[*key] = value.clone();
        }
    }
    let overridden = |pointer: &str| {
        let key = pointer.strip_prefix("/config/")?.split('/').next()?;
        let (_, option, _) = overrides.iter().find(|(name, _, value)| *name == key && value.is_some())?;
        Some(*option)
    };
    let document: Value =
        json!({ "name": definition.name, "description": definition.description, "config": config });
    parse_document(&document).map_err(|problems| {
        let problems: Vec<_> = problems
            .iter()
            .map(|problem| match overridden(&problem.pointer) {
                Some(option) => format!("{option}: {}", problem.message),
                None => format!("{}: {}", problem.pointer, problem.message),
            })
            .collect();
        Failure::new(
            Code::Usage,
            format!("the command line does not fit the workflow: {}", problems.join("; ")),
        )
    })
}
