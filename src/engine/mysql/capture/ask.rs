//! What is asked, and what puts back what the questions have disturbed.

use bytes::BytesMut;

use super::super::capability::Product;
use super::super::save;
use super::evidence::{self, Counters};
use super::{By, Capture, Stage, Step, user_variables, variables};

impl Capture {
    fn ask(&mut self, out: &mut BytesMut, sql: &str, step: Step) {
        self.script.query(out, sql.as_bytes(), step);
    }

    pub(super) fn ask_all(&mut self, out: &mut BytesMut) {
        self.stage = Stage::Asking;
        if self.wire.failed || self.wire.warnings > 0 {
            self.ask(out, "SHOW WARNINGS", Step::Warnings);
        }
        self.ask(out, &save::query(self.product()), Step::Save);
        self.ask(out, "SELECT @@timestamp", Step::Clock);
        self.ask_tables(out);
    }

    pub(super) fn knows_variables(&self) -> bool {
        self.brief || self.last.captured && self.wire.variables_known
    }

    pub(super) fn knows_user_variables(&self) -> bool {
        self.brief || self.last.captured && self.wire.user_variables_known
    }

    /// The questions that the client's own limits may cut short.
    fn ask_tables(&mut self, out: &mut BytesMut) {
        if self.brief {
            return;
        }
        let product = self.product();
        self.ask(out, &Counters::query(product), Step::Counters);
        if !self.knows_variables() {
            match variables::differing(product, &self.logged_in.server.version)
                .filter(|_| self.by == By::Bits)
            {
                Some(sql) => self.ask(out, &sql, Step::Differing),
                None => self.ask(out, variables::listed(product), Step::Listed),
            }
        }
        if product == Product::MariaDb {
            if !self.knows_user_variables() {
                self.ask(
                    out,
                    "SELECT HEX(VARIABLE_NAME) FROM information_schema.USER_VARIABLES",
                    Step::UserNames,
                );
            }
            self.ask(out, &evidence::locks(self.logged_in.connection_id), Step::Locks);
        }
    }

    /// Asks again without the client's limits, or without the list of variables, if these were in the way.
    pub(super) fn mend(&mut self, out: &mut BytesMut) -> bool {
        let Some(saved) = &self.saved else { return false };
        let unlimit = saved.unlimit().filter(|_| !self.unlimited && !self.brief);
        if unlimit.is_none() && self.by != By::Unfit {
            return false;
        }
        if self.by == By::Unfit && unlimit.is_none() {
            self.by = By::Rows;
        }
        if let Some(sql) = unlimit {
            self.by = By::Bits;
            self.unlimited = true;
            self.ask(out, &sql, Step::PutBack);
        }
        (self.error, self.counters) = (None, None);
        (self.differing, self.settings, self.names) = (Vec::new(), Vec::new(), Vec::new());
        self.observed.forget_locks(self.product());
        self.ask_tables(out);
        true
    }

    /// What the answers have named is asked for its value.
    pub(super) fn read_values(&mut self, out: &mut BytesMut) {
        if !self.differing.is_empty() {
            let sql = variables::values(&self.differing);
            self.ask(out, &sql, Step::Values);
        }
        if self.knows_user_variables() {
            return;
        }
        match self.product() {
            Product::MariaDb => {}
            Product::MySql if self.observed.is_complete() => self.names.clone_from(&self.observed.names),
            Product::MySql | Product::MySql56 => self.names.clone_from(&self.wire.user_variables),
        }
        self.names.sort_unstable();
        self.names.dedup();
        if self.has_foreign_names() {
            self.ask(out, "SET character_set_client=utf8mb4", Step::PutBack);
        }
        for names in self.names.clone().chunks(user_variables::AT_ONCE) {
            self.script.query(out, &user_variables::kinds(names), Step::UserKinds);
            self.script.query(out, &user_variables::values(names), Step::UserValues);
        }
    }

    /// Names that can be written in UTF-8 only.
    fn has_foreign_names(&self) -> bool {
        !self.names.iter().all(|name| name.is_ascii())
    }

    /// Leaves the backend as it was found, as far as that can be done.
    pub(super) fn put_back(&mut self, out: &mut BytesMut) {
        let Some(saved) = self.saved.clone() else {
            return self.script.set_option(out, self.multi_statements, Step::Last);
        };
        if let Some(sql) = saved.unlimit().filter(|_| !self.unlimited) {
            self.unlimited = true;
            self.ask(out, &sql, Step::PutBack);
        }
        let found_rows = Some(saved.found_rows).filter(|&rows| rows <= save::MOST_FOUND_ROWS);
        self.ask(out, &save::found_rows(found_rows.unwrap_or(0)), Step::Last);
        let charset = self.has_foreign_names().then_some("character_set_client");
        let value = |name: &str| saved.variable(name);
        if let Some(sql) = save::put_back(self.product(), value, self.unlimited, charset) {
            self.script.query(out, &sql, Step::PutBack);
        }
        match self.wire.row_count {
            0 => self.script.ping(out, Step::Last),
            _ => self.script.set_option(out, self.multi_statements, Step::Last),
        }
    }
}
