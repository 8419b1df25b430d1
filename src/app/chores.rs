//! What is done inside a database in the router's name.

use std::sync::Arc;

use async_trait::async_trait;

use crate::engine::Engine;
use crate::router::admin::Admin;
use crate::router::fleet::Fleet;
use crate::scaling::driver::Maintenance;

/// See the module.
pub(super) struct Chores<E: Engine> {
    pub(super) admin: Admin<E>,
    pub(super) fleet: Arc<Fleet>,
    /// The database that is to exist; a plain identifier.
    pub(super) database: Option<String>,
}

#[async_trait]
impl<E: Engine> Maintenance for Chores<E> {
    async fn flush(&self) -> Result<(), String> {
        let Some(statement) = E::flush_statement() else { return Ok(()) };
        self.admin.run(statement).await.map(drop).map_err(|error| error.to_string())
    }

    async fn study(&self) {
        for database in self.fleet.databases() {
            if let Ok(names) = self.admin.stored_names(&database).await {
                self.fleet.learn_setting_names(&database, &names);
            }
        }
    }

    async fn complete(&self) -> Result<(), String> {
        let Some(database) = &self.database else { return Ok(()) };
        let (exists, create) = E::database_statements(database);
        let run = async |sql: &str| self.admin.run(sql).await.map_err(|error| error.to_string());
        if run(&exists).await?.is_empty() {
            run(&create).await?;
        }
        Ok(())
    }
}
