//! Bare binary COPY of the rows that a record inserts, into the same tables. It changes no row that is there, looks nothing
//! up and counts nothing.

use std::pin::pin;

use anyhow::{Context, Result};
use crawlify_shared::domain::id::{ItemId, PageId};
use crawlify_shared::domain::outcome::NodeEnd;
use crawlify_shared::domain::page::FinishedPage;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement, ToStatement};

const NODES: &str =
    "COPY node_records (started_at, page_id, definition_id, duration_us, worker, attempt, retry_count,
    status, error_class, error, output) FROM STDIN (FORMAT binary)";
const NODE_TYPES: [Type; 11] = [
    Type::TIMESTAMPTZ,
    Type::UUID,
    Type::INT4,
    Type::INT4,
    Type::INT4,
    Type::INT2,
    Type::INT2,
    Type::CHAR,
    Type::TEXT,
    Type::TEXT,
    Type::JSONB,
];
const ITEMS: &str = "COPY extracted_items (id, execution_id, page_id, url, data) FROM STDIN (FORMAT binary)";
const ITEM_TYPES: [Type; 5] = [Type::UUID, Type::UUID, Type::UUID, Type::TEXT, Type::JSONB];
const NEW_PAGES: &str =
    "COPY url_queue (id, execution_id, url, url_hash, host, depth, priority, parent_id, discovered_by,
    is_sitemap) FROM STDIN (FORMAT binary)";
const NEW_PAGE_TYPES: [Type; 10] = [
    Type::UUID,
    Type::UUID,
    Type::TEXT,
    Type::BYTEA,
    Type::TEXT,
    Type::INT4,
    Type::INT4,
    Type::UUID,
    Type::TEXT,
    Type::BOOL,
];

/// Which rows of pages are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    /// Those of their nodes alone.
    Nodes,
    /// All that a record inserts: nodes, items, new pages. In one transaction.
    All,
}

/// Copies rows, with what it must know for that.
pub(crate) struct Copier {
    /// The numbers of the nodes' definitions, and of the worker, as records have them.
    definitions: Vec<i32>,
    number: i32,
    nodes: Statement,
    items: Statement,
    new_pages: Statement,
}

impl Copier {
    /// Learns the numbers from a database where a record was written.
    pub(crate) async fn prepare(client: &Client) -> Result<Self> {
        let rows = client.query("SELECT id FROM node_definitions ORDER BY position", &[]).await?;
        Ok(Self {
            definitions: rows.iter().map(|row| row.get(0)).collect(),
            number: client.query_one("SELECT number FROM workers", &[]).await?.get(0),
            nodes: client.prepare(NODES).await?,
            items: client.prepare(ITEMS).await?,
            new_pages: client.prepare(NEW_PAGES).await?,
        })
    }

    /// Copies rows of pages, commits, and answers how many.
    pub(crate) async fn copy(&self, client: &Client, what: Copied, group: &[FinishedPage]) -> Result<u64> {
        match what {
            // Parsed each time, as it always was here, so that new results can be compared with old ones.
            Copied::Nodes => self.copy_nodes(client, NODES, group).await,
            // Three statements parsed each time would be much beside the rows of one page. `record` is prepared too.
            Copied::All => {
                client.batch_execute("BEGIN").await?;
                let nodes = self.copy_nodes(client, &self.nodes, group).await?;
                let items = self.copy_items(client, group).await?;
                let new_pages = self.copy_new_pages(client, group).await?;
                client.batch_execute("COMMIT").await?;
                Ok(nodes + items + new_pages)
            }
        }
    }

    async fn copy_nodes(
        &self,
        client: &Client,
        statement: &(impl ToStatement + ?Sized),
        group: &[FinishedPage],
    ) -> Result<u64> {
        let sink = client.copy_in(statement).await?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &NODE_TYPES));
        for finished in group {
            let page = &finished.page;
            for node in &finished.outcome.nodes {
                let NodeEnd::Completed(output) = &node.end else { continue };
                let output = (!output.is_null()).then_some(output);
                let duration_us = (node.completed_at - node.started_at).num_microseconds().unwrap_or(0);
                let row: [&(dyn ToSql + Sync); 11] = [
                    &node.started_at,
                    &page.page_id.0,
                    &self.definitions[usize::from(node.position)],
                    &i32::try_from(duration_us)?,
                    &self.number,
                    &i16::try_from(page.attempt)?,
                    &0_i16,
                    &99_i8,
                    &None::<&str>,
                    &None::<&str>,
                    &output,
                ];
                writer.as_mut().write(&row).await?;
            }
        }
        Ok(writer.finish().await?)
    }

    async fn copy_items(&self, client: &Client, group: &[FinishedPage]) -> Result<u64> {
        let sink = client.copy_in(&self.items).await?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &ITEM_TYPES));
        for finished in group {
            let page = &finished.page;
            let row: [&(dyn ToSql + Sync); 5] = [
                &ItemId::derive(page.page_id, 0, page.created_at.timestamp_millis()).0,
                &page.execution_id.0,
                &page.page_id.0,
                &page.url.as_str(),
                &finished.outcome.item,
            ];
            writer.as_mut().write(&row).await?;
        }
        Ok(writer.finish().await?)
    }

    /// Copies the pages that are not in the frontier yet: the last link of each page is one. On another, COPY would end at
    /// `url_queue_url_key`.
    async fn copy_new_pages(&self, client: &Client, group: &[FinishedPage]) -> Result<u64> {
        let sink = client.copy_in(&self.new_pages).await?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &NEW_PAGE_TYPES));
        for finished in group {
            let page = &finished.page;
            let link = finished.outcome.discovered.last().context("a page has links")?;
            let row: [&(dyn ToSql + Sync); 10] = [
                &PageId::generate().0,
                &page.execution_id.0,
                &link.url.as_str(),
                &link.url.hash().to_vec(),
                &link.url.unit_of_politeness(page.host_unit),
                &i32::try_from(page.depth + 1)?,
                &(page.priority - 10),
                &page.page_id.0,
                &link.discovered_by,
                &link.is_sitemap,
            ];
            writer.as_mut().write(&row).await?;
        }
        Ok(writer.finish().await?)
    }
}
