//! What controllers and scheduler do with objects, seen through the API, on nodes that pretend and on time that jumps.

#![allow(clippy::disallowed_methods, reason = "tests see a panic by themselves")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

mod claims;
mod cluster;
mod credentials;
mod daemons;
mod deaths;
mod deployments;
mod extremes;
mod jobs;
mod keeping;
mod large;
mod life;
mod migrations;
mod nodes;
mod owners;
mod policies;
mod scaling;
mod scheduling;
mod services;
mod stateful;
mod volumes;

/// The sources of tests, and what says which promise each stands for.
#[test]
fn what_the_documents_name_is_tested() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut open: Vec<std::path::PathBuf> =
        std::fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut sources = String::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            sources.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    for document in ["api.md", "controllers.md", "scheduler.md", "reports.md", "keps.md", "cases.md"] {
        let text = std::fs::read_to_string(root.join("docs/conformance").join(document)).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        assert!(rows.len() > 10, "{document}");
        if document == "cases.md" {
            // The first line is the head of the table.
            assert_eq!(rows.len(), 462 + 1, "upstream's suite of v1.37 has so many cases");
            assert!(rows[1..].iter().all(|row| row.contains('`')), "each case has a test");
        }
        for row in rows {
            // What stands in back-ticks in the last two columns and is a name of ours has underscores.
            let cells: Vec<&str> = row.split('|').collect();
            assert_eq!(cells.len(), 5, "{document}: {row}");
            let names =
                cells[2..].iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|n| n.contains('_'));
            for name in names {
                assert!(sources.contains(&format!("fn {name}(")), "{document}: there is no test {name}");
            }
        }
    }
}
