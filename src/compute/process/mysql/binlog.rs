//! What a server is told that is followed by another one, or follows it: both write a binary log, by global transaction
//! identifiers.

use super::programs::Product;
use super::settings::Parameters;

/// No replica of the operator's own is likely to have the same; the second server's is one more.
pub(super) const FIRST_NUMBER: u32 = 1_554_055_168;

/// A loss of power loses no commit, and the log does not fill the disk: what a copy has not fetched in this time it is copied
/// anew for.
pub(super) fn governed(product: Product) -> Vec<String> {
    // MariaDB knows seconds since 10.6.
    let days = (product == Product::MariaDb).then_some("--expire-logs-days=1");
    let settings = ["--sync-binlog=1", "--max-binlog-size=64M", "--loose-binlog-expire-logs-seconds=900"];
    days.into_iter().chain(settings).map(str::to_owned).collect()
}

/// Names have changed with the releases; a server passes over the loose ones that it does not know.
pub(super) fn fixed(product: Product, number: u32) -> Vec<String> {
    let all = [
        "--log-bin=binlog",
        "--relay-log=relay",
        "--relay-log-recovery=ON",
        "--loose-binlog-format=ROW",
        "--loose-log-slave-updates=ON",
    ];
    let own: &[&str] = match product {
        Product::MariaDb => &["--gtid-domain-id=0"],
        Product::MySql => &[
            "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON",
            "--loose-log-replica-updates=ON",
            "--plugin-load-add=mysql_clone.so",
        ],
        Product::MySql56 => &[],
    };
    let number = format!("--server-id={number}");
    all.iter().chain(own).map(|option| (*option).to_owned()).chain([number]).collect()
}

impl Parameters {
    /// A copy takes nobody's writes and runs nothing by itself. It keeps up with many writers because it waits for no disk: that
    /// is made good before it takes over.
    pub(super) fn following(&self, product: Product) -> Vec<String> {
        let read_only: &[&str] = match product {
            Product::MariaDb | Product::MySql56 => &["--read-only=ON"],
            Product::MySql => &["--read-only=ON", "--super-read-only=ON"],
        };
        let all = [
            "--event-scheduler=OFF",
            "--sync-binlog=0",
            "--innodb-flush-log-at-trx-commit=2",
            // It follows when it is told to, and whom.
            "--loose-skip-slave-start",
            "--loose-skip-replica-start",
        ];
        read_only.iter().chain(&all).map(|option| (*option).to_owned()).collect()
    }

    /// Statements that make of a copy a server as any other.
    pub(super) fn serving(&self, product: Product) -> Vec<String> {
        let usual_scheduler = if product == Product::MySql { "ON" } else { "OFF" };
        let settings = [
            ("innodb_flush_log_at_trx_commit", "1"),
            ("sync_binlog", "1"),
            ("event_scheduler", usual_scheduler),
            // Last: before it, nobody writes.
            ("read_only", "OFF"),
        ];
        let assignments = settings.map(|(name, usual)| {
            let value = self.own.get(name).map_or(usual, String::as_str);
            let plain = value.chars().all(|c| c.is_ascii_alphanumeric());
            let value = if plain && !value.is_empty() { value } else { usual };
            format!("GLOBAL {name} = {value}")
        });
        vec![format!("SET {}", assignments.join(", "))]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_copy_that_serves_is_as_the_operator_wants() {
        let own = [("sync_binlog", "0"), ("event_scheduler", "x; DROP")];
        let own: BTreeMap<_, _> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let parameters = Parameters::new(own, Some(7)).unwrap();
        let expected = "SET GLOBAL innodb_flush_log_at_trx_commit = 1, GLOBAL sync_binlog = 0, \
                        GLOBAL event_scheduler = ON, GLOBAL read_only = OFF";
        assert_eq!(parameters.serving(Product::MySql), [expected]);
        assert!(parameters.following(Product::MySql).contains(&"--super-read-only=ON".to_owned()));
        assert!(fixed(Product::MariaDb, 7).contains(&"--server-id=7".to_owned()));
    }
}
