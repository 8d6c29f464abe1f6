//! The text forms of the answers: tables, and findings with the lines they are about.

use super::Target;
use super::json::Request;
use crate::lint::Warning;
use crate::lower::{Outline, OutlineItem};
use shipway_model::SourceRange;
use shipway_model::definition::SourceInfo;
use std::fmt::Write as _;

/// Rows with all columns but the last as wide as their widest cell and `padding`.
fn table(rows: &[Vec<&str>], padding: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + padding
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let blanks = widths[column] - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push('\n');
    }
    text
}

pub(super) fn outline(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() {
            "(default)"
        } else {
            &outline.name
        };
        let mut rows = vec![vec!["TARGET:", name]];
        if !outline.description.is_empty() {
            rows.push(vec!["DESCRIPTION:", &outline.description]);
        }
        text.push_str(&table(&rows, 1));
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        let args = outline.args.iter();
        rows.extend(args.map(|arg| vec![arg.name.as_str(), &arg.value, &arg.description]));
        text.push_str(&table(&rows, 3));
        text.push('\n');
    }
    for (title, items) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !items.is_empty() {
            text.push_str(&needs(title, items));
            text.push('\n');
        }
    }
    text
}

fn needs(title: &str, items: &[OutlineItem]) -> String {
    let mut rows = vec![vec![title, "REQUIRED"]];
    let required = |item: &OutlineItem| if item.required { "true" } else { "" };
    rows.extend(
        items
            .iter()
            .map(|item| vec![item.name.as_str(), required(item)]),
    );
    table(&rows, 3)
}

pub(super) fn targets(targets: &[Target]) -> String {
    let names: Vec<String> = targets
        .iter()
        .map(
            |target| match (target.stage.name.as_str(), target.default) {
                ("", true) => "(default)".into(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            },
        )
        .collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    let stages = names.iter().zip(targets);
    rows.extend(stages.map(|(name, target)| vec![name.as_str(), target.stage.doc.as_str()]));
    table(&rows, 1)
}

pub(super) fn requests(requests: &[Request]) -> String {
    let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
    rows.extend(requests.iter().map(|request| {
        vec![
            request.name.trim_start_matches("frontend."),
            request.version,
            request.description,
        ]
    }));
    table(&rows, 1)
}

/// Findings in order of lines, each with its snippet.
pub(super) fn lint(warnings: &[&Warning], source: &SourceInfo) -> String {
    let mut sorted = warnings.to_vec();
    sorted.sort_by_key(|warning| warning.lines.first);
    let mut text = String::new();
    for warning in sorted {
        let url = warning.rule.url();
        let url = if url.is_empty() {
            url
        } else {
            format!(" - {url}")
        };
        let name = warning.rule.name();
        write!(text, "\nWARNING: {name}{url}\n{}\n", warning.text).ok();
        text.push_str(&snippet(source, &warning.lines.ranges()));
    }
    text
}

/// The lines of `ranges`, marked, with a few around them.
fn snippet(source: &SourceInfo, ranges: &[SourceRange]) -> String {
    const RULE: &str = "--------------------\n";
    let data = String::from_utf8_lossy(&source.data);
    let lines: Vec<&str> = data.split('\n').collect();
    let number = |line: i32| usize::try_from(line).unwrap_or(0);
    let ends = ranges
        .iter()
        .map(|range| number(range.end_line.max(range.start_line)));
    let (Some(first), Some(last)) = (
        ranges.iter().map(|range| number(range.start_line)).min(),
        ends.max(),
    ) else {
        return String::new();
    };
    if first < 1 || first > lines.len() {
        return String::new();
    }
    let last = last.min(lines.len());
    let (start, end) = widened(first, last, lines.len());
    let mut text = format!("{}:{first}\n{RULE}", source.filename);
    for line in start..=end {
        let marked = ranges.iter().any(|range| {
            let end = range.end_line.max(range.start_line);
            (number(range.start_line)..=number(end)).contains(&line)
        });
        let mark = if marked { ">>>" } else { "   " };
        writeln!(text, " {line:>3} | {mark} {}", lines[line - 1]).ok();
    }
    text.push_str(RULE);
    text
}

/// More lines before and behind, as many as fit: fewer around a range than around a single line.
fn widened(first: usize, last: usize, count: usize) -> (usize, usize) {
    let wanted = if first == last { 4 } else { 2 };
    let (mut start, mut end, mut added) = (first, last, 0);
    while added < wanted {
        if start > 1 {
            start -= 1;
            added += 1;
        }
        if end != count {
            end += 1;
            added += 1;
        }
        // Counts even where there is nothing to add, so that this ends.
        added += 1;
    }
    (start, end)
}
