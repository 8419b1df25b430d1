//! Engines and the capacities that each of them can have.

use std::fmt;

/// Which protocol a cluster speaks and which server runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// PostgreSQL
    Postgres,
    /// MySQL or MariaDB
    Mysql,
}

impl Engine {
    /// The name in the configuration file and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        }
    }

    /// The capacities this engine can have.
    pub fn ladder(self) -> Ladder {
        match self {
            Self::Postgres => Ladder::POSTGRES,
            Self::Mysql => Ladder::MYSQL,
        }
    }

    /// The port that clients of this engine try first.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Mysql => 3306,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The capacities of an engine, in ACUs, rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder(&'static [u32]);

impl Ladder {
    /// Capacities of Aurora PostgreSQL Serverless v1.
    pub const POSTGRES: Self = Self(&[2, 4, 8, 16, 32, 64, 192, 384]);
    /// Capacities of Aurora MySQL Serverless v1.
    pub const MYSQL: Self = Self(&[1, 2, 4, 8, 16, 32, 64, 128, 256]);

    /// All capacities, rising.
    pub fn steps(self) -> &'static [u32] {
        self.0
    }

    /// Whether a cluster can have this capacity.
    pub fn contains(self, capacity: u32) -> bool {
        self.0.contains(&capacity)
    }

    /// The smallest capacity.
    pub fn lowest(self) -> u32 {
        self.0[0]
    }

    /// The largest capacity.
    pub fn highest(self) -> u32 {
        self.0[self.0.len() - 1]
    }

    /// The next capacity above `capacity` (which need not be on the ladder).
    pub fn next_up(self, capacity: u32) -> Option<u32> {
        self.0.iter().copied().find(|step| *step > capacity)
    }

    /// The next capacity below `capacity` (which need not be on the ladder).
    pub fn next_down(self, capacity: u32) -> Option<u32> {
        self.0.iter().copied().rev().find(|step| *step < capacity)
    }

    /// "the nearest capacities are 4 and 8", for hints.
    pub fn nearest_in_words(self, capacity: u32) -> String {
        match (self.next_down(capacity), self.next_up(capacity)) {
            (Some(below), Some(above)) => format!("the nearest capacities are {below} and {above}"),
            (Some(only), None) | (None, Some(only)) => format!("the nearest capacity is {only}"),
            (None, None) => self.to_string(),
        }
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&steps.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_up_and_down() {
        let cases = [
            (Ladder::POSTGRES, 2, None, Some(4)),
            (Ladder::POSTGRES, 64, Some(32), Some(192)),
            (Ladder::POSTGRES, 128, Some(64), Some(192)),
            (Ladder::POSTGRES, 384, Some(192), None),
            (Ladder::MYSQL, 1, None, Some(2)),
            (Ladder::MYSQL, 256, Some(128), None),
            (Ladder::MYSQL, 1000, Some(256), None),
        ];
        for (ladder, capacity, down, up) in cases {
            assert_eq!((ladder.next_down(capacity), ladder.next_up(capacity)), (down, up), "{capacity}");
        }
    }

    #[test]
    fn nearest_words() {
        assert_eq!(Ladder::POSTGRES.nearest_in_words(5), "the nearest capacities are 4 and 8");
        assert_eq!(Ladder::POSTGRES.nearest_in_words(1), "the nearest capacity is 2");
        assert_eq!(Ladder::MYSQL.nearest_in_words(999), "the nearest capacity is 256");
    }
}
