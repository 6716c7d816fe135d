//! Holds migrations to their form, and those that landed to what they were: an installed database remembers sqlx's checksum
//! of each that it has, and nothing starts on it where one is another.

use std::collections::BTreeMap;
use std::fs;

use sqlx::migrate::{Migration, MigrationType};
use sqlx::{AssertSqlSafe, SqlSafeStr};

use super::root;

/// The file beside the migrations that lists them, as `sha384sum` prints it. sqlx passes over it, as its name has no `_`.
const CHECKSUMS: &str = "CHECKSUMS";

#[test]
fn the_migrations_explain_themselves_and_make_the_tables_that_users_query() {
    let files = migrations();
    let problems: Vec<String> =
        files.iter().flat_map(|(name, text)| migration_problems(name, text)).collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    let everything: String = files.into_values().collect();
    for table in [
        "TABLE workflows (",
        "TABLE workflow_versions (",
        "TABLE workflow_executions (",
        "TABLE url_queue (",
        "TABLE node_records (",
        "VIEW node_executions AS",
        "TABLE extracted_items (",
        "VIEW extracted_data AS",
    ] {
        assert!(everything.contains(&format!("CREATE {table}")), "no migration creates {table}");
    }
}

#[test]
fn migrations_that_landed_are_as_they_were() {
    let list = fs::read_to_string(root().join("migrations").join(CHECKSUMS)).unwrap();
    let problems = checksum_problems(&list, &migrations());
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// All files beside the list, by name.
fn migrations() -> BTreeMap<String, String> {
    let entries = fs::read_dir(root().join("migrations")).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name != CHECKSUMS)
        .map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
        .collect()
}

fn migration_problems(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let (version, rest) = name.split_at_checked(14).unwrap_or((name, ""));
    if version.len() != 14 || !version.bytes().all(|byte| byte.is_ascii_digit()) || !rest.starts_with('_') {
        problems.push(format!("{name}: a migration is called YYYYMMDDhhmmss_what_it_does.sql"));
    }
    let mut before = "";
    for line in text.lines() {
        let creates = line.starts_with("CREATE TABLE") || line.starts_with("CREATE VIEW");
        if creates && !before.starts_with("--") && !line.contains(" PARTITION OF ") {
            problems.push(format!("{name}: no comment explains `{line}`"));
        }
        before = line;
    }
    problems
}

fn checksum_problems(list: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    let lines: Vec<(&str, &str)> =
        list.lines().map(|line| line.split_once("  ").unwrap_or(("", line))).collect();
    for (listed, name) in &lines {
        let what = match files.get(*name) {
            Some(text) if checksum(text) == *listed => continue,
            Some(_) => "a landed migration was edited",
            None => "a landed migration is gone",
        };
        problems.push(format!("{name}: {what}: an installed database refuses to start; make a new one"));
    }
    for name in files.keys().filter(|name| lines.iter().all(|(_, listed)| listed != name)) {
        problems.push(format!(
            "{name}: it is not listed: `(cd migrations && sha384sum {name} >> {CHECKSUMS})` lists it"
        ));
    }
    problems
}

/// As sqlx computes it, in hexadecimal.
fn checksum(text: &str) -> String {
    let sql = AssertSqlSafe(text).into_sql_str();
    let migration = Migration::new(1, "".into(), MigrationType::Simple, sql, false);
    migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_migration_without_comment_or_number_is_found() {
    assert_eq!(
        migration_problems("20261123000001_core.sql", "-- Things.\nCREATE TABLE things (id int);"),
        [""; 0]
    );
    assert_eq!(migration_problems("20261123000001_core.sql", "\nCREATE TABLE things (id int);").len(), 1);
    assert_eq!(migration_problems("1_core.sql", "").len(), 1);
}

#[test]
fn a_migration_that_was_edited_removed_or_not_listed_is_found() {
    let files = |files: &[(&str, &str)]| {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let list = format!("{}  1_a.sql\n{}  2_b.sql\n", checksum("A;"), checksum("B;"));
    let found = |planted: &[(&str, &str)]| checksum_problems(&list, &files(planted));
    assert_eq!(found(&[("1_a.sql", "A;"), ("2_b.sql", "B;")]), [""; 0]);
    for (planted, expected) in [
        (&[("1_a.sql", "A; "), ("2_b.sql", "B;")][..], "1_a.sql: a landed migration was edited"),
        (&[("1_a.sql", "A;")][..], "2_b.sql: a landed migration is gone"),
        (&[("1_a.sql", "A;"), ("2_b.sql", "B;"), ("3_c.sql", "C;")][..], "sha384sum 3_c.sql >> CHECKSUMS"),
    ] {
        let found = found(planted);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
}
