//! `du` and `prune`: what the cache holds, and making it smaller.

use shipway_proto::control::{DiskUsageRequest, PruneRequest, UsageRecord};

use crate::args::{Global, ListFlags, PruneFlags};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output::{self, Table, Template, Value, record};
use crate::progress::{format_bytes, format_time};

/// Lists the cache's records.
pub(crate) async fn du(global: &Global, flags: &ListFlags) -> Result<(), Error> {
    let template = flags
        .format
        .format
        .as_deref()
        .map(Template::parse)
        .transpose()?;
    let mut control = Daemon::connect(global).await?.control();
    let request = DiskUsageRequest {
        filter: flags.filter.clone(),
        ..DiskUsageRequest::default()
    };
    let answered = control.disk_usage(request).await;
    let mut records = answered
        .map_err(Error::call("failed to call diskusage"))?
        .into_inner()
        .record;
    records.sort_by(|a, b| (a.size, &a.id).cmp(&(b.size, &b.id)));
    if let Some(template) = template {
        let value = match records.as_slice() {
            [] => Value::Null,
            records => Value::List(records.iter().map(usage_value).collect()),
        };
        return output::print(&(template.apply(&value)? + "\n"));
    }
    output::print(&if flags.verbose {
        verbose(&records)
    } else {
        table(&records)
    })?;
    if flags.filter.is_empty() {
        output::print(&summary(&records))
    } else {
        Ok(())
    }
}

/// Removes records and says which.
pub(crate) async fn prune(global: &Global, flags: &PruneFlags) -> Result<(), Error> {
    let template = flags
        .list
        .format
        .format
        .as_deref()
        .map(Template::parse)
        .transpose()?;
    let mut control = Daemon::connect(global).await?.control();
    let doing = "failed to call prune";
    let answered = control.prune(request(flags)).await;
    let mut removed = answered.map_err(Error::call(doing))?.into_inner();
    let (mut total, mut first) = (0, true);
    while let Some(record) = removed.message().await.map_err(Error::call(doing))? {
        total += record.size;
        let text = match &template {
            Some(template) => template.apply(&usage_value(&record))? + "\n",
            None if flags.list.verbose => verbose(std::slice::from_ref(&record)),
            None if first => table(std::slice::from_ref(&record)),
            None => row(&record) + "\n",
        };
        first = false;
        output::print(&text)?;
    }
    if template.is_some() {
        Ok(())
    } else {
        output::print(&format!("Total:\t{}\n", format_bytes(total)))
    }
}

fn request(flags: &PruneFlags) -> PruneRequest {
    let keep = flags.keep_duration.unwrap_or_default().as_nanos();
    PruneRequest {
        filter: flags.list.filter.clone(),
        all: flags.all,
        keep_duration: i64::try_from(keep).unwrap_or(i64::MAX),
        reserved_space: megabytes(flags.keep_storage_min),
        max_used_space: megabytes(flags.keep_storage),
        min_free_space: megabytes(flags.free_storage),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the conversion saturates")]
fn megabytes(size: f64) -> i64 {
    (size * 1e6) as i64
}

fn row(record: &UsageRecord) -> String {
    let id = if record.mutable {
        format!("{}*", record.id)
    } else {
        record.id.clone()
    };
    let shared = if record.shared { "*" } else { "" };
    format!(
        "{id:<71}\t{:<11}\t{}{shared}\t",
        !record.in_use,
        format_bytes(record.size)
    )
}

fn table(records: &[UsageRecord]) -> String {
    let mut table = Table::default();
    table.line(["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"]);
    for record in records {
        table.line(row(record).split('\t'));
    }
    table.text()
}

fn summary(records: &[UsageRecord]) -> String {
    let sum = |wanted: fn(&UsageRecord) -> bool| -> i64 {
        records
            .iter()
            .filter(|record| wanted(record) && record.size > 0)
            .map(|r| r.size)
            .sum()
    };
    let (total, shared) = (sum(|_| true), sum(|record| record.shared));
    let mut table = Table::default();
    if shared > 0 {
        table.line(["Shared:".to_owned(), format_bytes(shared)]);
        table.line(["Private:".to_owned(), format_bytes(total - shared)]);
    }
    table.line([
        "Reclaimable:".to_owned(),
        format_bytes(sum(|record| !record.in_use)),
    ]);
    table.line(["Total:".to_owned(), format_bytes(total)]);
    table.text()
}

fn verbose(records: &[UsageRecord]) -> String {
    let mut table = Table::default();
    for record in records {
        let time = |at: &Option<prost_types::Timestamp>| at.as_ref().map(go_time);
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let pairs = [
            ("ID:", Some(record.id.clone())),
            ("Parents:", given(&record.parents.join(";"))),
            ("Created at:", time(&record.created_at)),
            ("Mutable:", Some(record.mutable.to_string())),
            ("Reclaimable:", Some((!record.in_use).to_string())),
            ("Shared:", Some(record.shared.to_string())),
            ("Size:", Some(format_bytes(record.size))),
            ("Description:", given(&record.description)),
            ("Usage count:", Some(record.usage_count.to_string())),
            ("Last used:", time(&record.last_used_at)),
            ("Type:", given(&record.record_type)),
        ];
        for (name, value) in pairs {
            if let Some(value) = value {
                table.line([name.to_owned(), value]);
            }
        }
        table.line([""]);
    }
    table.text()
}

/// A time as Go prints one.
fn go_time(at: &prost_types::Timestamp) -> String {
    format_time(at).replace('T', " ").replace('Z', " +0000 UTC")
}

fn usage_value(usage: &UsageRecord) -> Value {
    let time = |at: &prost_types::Timestamp| Value::Text(format_time(at));
    let created = usage.created_at.unwrap_or_default();
    record(vec![
        ("ID", "id", Value::Text(usage.id.clone())),
        ("Mutable", "mutable", Value::Bool(usage.mutable)),
        ("InUse", "inUse", Value::Bool(usage.in_use)),
        ("Size", "size", Value::Int(usage.size)),
        ("CreatedAt", "createdAt", time(&created)),
        (
            "LastUsedAt",
            "lastUsedAt",
            usage.last_used_at.as_ref().map_or(Value::Null, time),
        ),
        ("UsageCount", "usageCount", Value::Int(usage.usage_count)),
        ("Parents", "parents", Value::texts(&usage.parents)),
        (
            "Description",
            "description",
            Value::Text(usage.description.clone()),
        ),
        (
            "RecordType",
            "recordType",
            Value::Text(usage.record_type.clone()),
        ),
        ("Shared", "shared", Value::Bool(usage.shared)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_reclaimable_and_shared() {
        let record = |size, in_use, shared| UsageRecord {
            size,
            in_use,
            shared,
            ..UsageRecord::default()
        };
        let records = [record(1000, true, false), record(500, false, true)];
        let expected = "Shared:\t\t500B\nPrivate:\t1.00kB\nReclaimable:\t500B\nTotal:\t\t1.50kB\n";
        assert_eq!(summary(&records), expected);
    }
}
