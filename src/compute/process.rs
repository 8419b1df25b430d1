//! PostgreSQL (later MariaDB, MySQL) as a child process on one data directory.
