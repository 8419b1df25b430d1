//! One row of what every session has, asked of it before anything else disturbs it.
//!
//! It reads no table, so that neither `sql_select_limit` nor `max_join_size` can cut it short, and what it yields is ASCII
//! (names are in hexadecimal), so that it can be read in whatever character set the client wants its results.

use bytes::Bytes;

use super::answer::{IN_TRANSACTION, ascii};
use super::capability::Product;
use super::literal;

/// Variables that mean something to every statement: always asked for and always set again, whatever the server's own
/// values are. `max_join_size` comes before what it changes.
const ALWAYS: [&str; 13] = [
    "character_set_client",
    "character_set_results",
    "collation_connection",
    "sql_mode",
    "time_zone",
    "autocommit",
    "sql_auto_is_null",
    "foreign_key_checks",
    "unique_checks",
    "lc_time_names",
    "max_join_size",
    "sql_big_selects",
    "sql_select_limit",
];

/// The names of the same, and of those that the products call differently.
pub fn variables(product: Product) -> impl Iterator<Item = &'static str> {
    let own: &[&str] = match product {
        Product::MariaDb => &["tx_isolation", "tx_read_only", "max_statement_time"],
        Product::MySql => &["transaction_isolation", "transaction_read_only", "max_execution_time"],
        Product::MySql56 => &["tx_isolation", "tx_read_only"],
    };
    ALWAYS.iter().chain(own).copied()
}

/// What comes before the variables.
const FIXED: usize = 8;

/// A column that is a text always, in the collation of results.
pub const TEXT: usize = 2;

/// The question.
pub fn query(product: Product) -> String {
    let role = match product {
        Product::MariaDb | Product::MySql => "HEX(CURRENT_ROLE())",
        Product::MySql56 => "NULL",
    };
    let variables: Vec<String> = variables(product).map(|name| format!("@@{name}")).collect();
    format!(
        "SELECT LAST_INSERT_ID(),FOUND_ROWS(),HEX(DATABASE()),{role},@@insert_id,@@timestamp,@@rand_seed1,@@rand_seed2,{}",
        variables.join(",")
    )
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// `LAST_INSERT_ID()`
    pub last_insert_id: u64,
    /// `FOUND_ROWS()`
    pub found_rows: u64,
    /// `DATABASE()`
    pub database: Option<Bytes>,
    /// `CURRENT_ROLE()`; `None`: none.
    pub role: Option<Bytes>,
    /// `SET insert_id` in force; else 0.
    pub insert_id: u64,
    /// When the statement began, unless it is in force as a fixed time.
    pub timestamp: Bytes,
    /// MariaDB's seeds; 0 where they cannot be read.
    pub rand_seeds: (u64, u64),
    /// [`variables`]
    pub variables: Vec<(Bytes, Option<Bytes>)>,
    /// A transaction is open.
    pub in_transaction: bool,
}

/// Reads the answer.
pub fn read(product: Product, row: &[Option<Bytes>], status: u16) -> Option<Saved> {
    let text = |at: usize| row.get(at)?.as_deref().map(ascii);
    let number = |at: usize| std::str::from_utf8(&text(at)?).ok()?.parse::<u64>().ok();
    let name = |at: usize| Some(Bytes::from(hex::decode(text(at)?).ok()?));
    let values = row.get(FIXED..)?;
    let names = variables(product);
    let variables: Vec<(Bytes, Option<Bytes>)> =
        names.zip(values).map(|(name, value)| (name.into(), value.as_deref().map(ascii))).collect();
    (variables.len() == values.len()).then_some(())?;
    Some(Saved {
        last_insert_id: number(0)?,
        found_rows: number(1)?,
        database: name(2),
        role: name(3).filter(|role| role.as_ref() != b"NONE"),
        insert_id: number(4)?,
        timestamp: text(5)?,
        rand_seeds: (number(6)?, number(7)?),
        variables,
        in_transaction: status & IN_TRANSACTION != 0,
    })
}

impl Saved {
    /// A variable's value.
    pub fn variable(&self, name: &str) -> Option<&Bytes> {
        self.variables.iter().find(|(known, _)| known == name.as_bytes())?.1.as_ref()
    }

    /// What lifts the client's own limits, if they are in the way.
    pub fn unlimit(&self) -> Option<String> {
        unlimit(|name| self.variable(name))
    }
}

/// The client's own limits would cut questions of many rows short, or have them refused: what lifts them. `of`: the
/// variables.
pub fn unlimit<'a>(of: impl Fn(&str) -> Option<&'a Bytes>) -> Option<String> {
    let number = |name: &str| {
        let text = of(name).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.parse::<f64>().ok()).unwrap_or_default()
    };
    let few = number("sql_select_limit") < 100_000.0;
    let small = number("sql_big_selects") == 0.0;
    let seconds = number("max_statement_time") + number("max_execution_time") / 1000.0;
    let short = seconds > 0.0 && seconds < 5.0;
    if !(few || small || short) {
        return None;
    }
    let mut sql = "SET sql_select_limit=18446744073709551615,sql_big_selects=1".to_owned();
    for name in TIMES.into_iter().filter(|name| of(name).is_some()) {
        sql.push_str(&[",", name, "=0"].concat());
    }
    Some(sql)
}

/// How long a statement may take, in one product or the other.
const TIMES: [&str; 2] = ["max_statement_time", "max_execution_time"];

/// A `SET` of what [`unlimit`] and `more` have changed. On MySQL never `None`: what the questions used is deprecated
/// there, and a `SET` clears the warning and leaves `FOUND_ROWS()` alone.
pub fn put_back<'a>(
    product: Product,
    of: impl Fn(&str) -> Option<&'a Bytes>,
    unlimited: bool,
    more: Option<&'static str>,
) -> Option<Vec<u8>> {
    let mut names = Vec::from_iter(more);
    if unlimited {
        names.extend(["sql_select_limit", "sql_big_selects"]);
        names.extend(TIMES.into_iter().filter(|name| of(name).is_some()));
    } else if product == Product::MySql {
        names.push("sql_select_limit");
    }
    let settings: Vec<Vec<u8>> =
        names.into_iter().map(|name| literal::assigned(name.as_bytes(), of(name))).collect();
    (!settings.is_empty()).then(|| [b"SET ", &settings.join(&b","[..])[..]].concat())
}

/// Above this, the statement that makes `FOUND_ROWS()` what it was takes longer than a tenth of a second, in a hold
/// perhaps: then the router answers in the server's place.
pub const MOST_FOUND_ROWS: u64 = 1_000_000;

/// A statement after which `FOUND_ROWS()` is `rows`: it reads no table, sends no row, and begins no transaction.
///
/// Digit by digit: as many rows as the digit says, times ten for each place. A `WHERE` over all of them together takes fifty
/// times as long.
pub fn found_rows(rows: u64) -> String {
    let digits = |most: u64| {
        let more: Vec<String> = (1..most).map(|digit| format!(" UNION ALL SELECT {digit}")).collect();
        format!("(SELECT 0 d{})", more.concat())
    };
    let places = rows.to_string();
    let mut sql = String::new();
    for (at, digit) in places.bytes().map(|digit| u64::from(digit - b'0')).enumerate() {
        if digit == 0 {
            continue;
        }
        sql.push_str(if sql.is_empty() { "SELECT SQL_CALC_FOUND_ROWS " } else { " UNION ALL SELECT " });
        // A hash join would spill to disk; a comment where there is none.
        sql.push_str(&format!("/*+ NO_BNL() */ 1 FROM {} a", digits(digit)));
        for place in at + 1..places.len() {
            sql.push_str(&format!(",{} t{place}", digits(10)));
        }
    }
    match rows {
        0 => "SELECT 1 LIMIT 0".to_owned(),
        1 => "SELECT 1".to_owned(),
        _ => sql + " LIMIT 0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(product: Product) -> Vec<Option<Bytes>> {
        let fixed = ["7", "3", "6170", "4E4F4E45", "0", "1.5", "4", "5"];
        let fixed = fixed.into_iter().map(|text| Some(Bytes::from_static(text.as_bytes())));
        fixed.chain(variables(product).map(|_| Some(Bytes::from_static(b"1")))).collect()
    }

    #[test]
    fn a_row_is_read_whole_or_not_at_all() {
        for product in [Product::MariaDb, Product::MySql, Product::MySql56] {
            let saved = read(product, &row(product), IN_TRANSACTION).unwrap();
            assert_eq!((saved.last_insert_id, saved.found_rows, saved.rand_seeds), (7, 3, (4, 5)));
            assert_eq!((saved.database.as_deref(), saved.role), (Some(&b"ap"[..]), None));
            assert!(saved.in_transaction);
            assert_eq!(read(product, &row(product)[1..], 0), None);
        }
    }

    #[test]
    fn limits_are_lifted_and_put_back() {
        let with = |name: &'static str, value: &'static str| {
            let mut saved = read(Product::MySql, &row(Product::MySql), 0).unwrap();
            for (known, old) in &mut saved.variables {
                let value = match &known[..] {
                    known if known == name.as_bytes() => value,
                    b"sql_select_limit" => "18446744073709551615",
                    b"sql_big_selects" => "1",
                    _ => "0",
                };
                *old = Some(value.into());
            }
            saved
        };
        assert_eq!(with("sql_notes", "1").unlimit(), None);
        assert_eq!(with("max_execution_time", "60000").unlimit(), None);
        for (name, value) in
            [("sql_select_limit", "1"), ("sql_big_selects", "0"), ("max_execution_time", "10")]
        {
            let saved = with(name, value);
            assert!(saved.unlimit().is_some_and(|sql| sql.ends_with(",max_execution_time=0")));
            let back = put_back(Product::MySql, |name| saved.variable(name), true, None).unwrap();
            assert!(String::from_utf8(back).unwrap().contains(&format!("{name}={value}")));
        }
        let saved = with("sql_notes", "1");
        assert_eq!(put_back(Product::MariaDb, |name| saved.variable(name), false, None), None);
    }

    #[test]
    fn rows_are_found_without_a_table() {
        assert_eq!(found_rows(0), "SELECT 1 LIMIT 0");
        assert_eq!(found_rows(1), "SELECT 1");
        let more: Vec<String> = (1..10).map(|digit| format!(" UNION ALL SELECT {digit}")).collect();
        let ten = format!("(SELECT 0 d{})", more.concat());
        assert_eq!(
            found_rows(201).replace("/*+ NO_BNL() */ ", "").replace(&ten, "TEN"),
            "SELECT SQL_CALC_FOUND_ROWS 1 FROM (SELECT 0 d UNION ALL SELECT 1) a,TEN t1,TEN t2 \
             UNION ALL SELECT 1 FROM (SELECT 0 d) a LIMIT 0"
        );
    }
}
