//! Events: what happened to a cluster, in the words of Amazon RDS where it has words for it.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Something that happened to a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC, milliseconds.
    pub time: String,
    /// The cluster's name.
    pub cluster: String,
    /// A stable name (`scaled`, `paused`, `backend_died`, ...).
    pub kind: String,
    /// One sentence for people.
    pub message: String,
    /// `RDS-EVENT-0141` to `-0149`, where the event is one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// What programs want to know, beside the message in the JSON object.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Value>,
}

impl Event {
    /// An event without fields; `kind` is in snake case.
    pub fn new(time: SystemTime, cluster: &str, kind: &str, message: impl Into<String>) -> Self {
        Self {
            time: rfc3339_utc(time),
            cluster: cluster.to_owned(),
            kind: kind.to_owned(),
            message: message.into(),
            event_id: None,
            fields: BTreeMap::new(),
        }
    }

    /// An event that Amazon RDS has too, with its id and its exact text.
    pub fn rds(time: SystemTime, cluster: &str, event: &RdsEvent) -> Self {
        let mut made = Self::new(time, cluster, event.kind(), event.message());
        made.event_id = Some(event.id().to_owned());
        if let Some((from, to, reason)) = event.change() {
            made = made.with("from", from).with("to", to);
            if let Some(reason) = reason {
                made = made.with("reason", reason);
            }
        }
        made
    }

    /// The same with one more field. The names of [`Event`]'s own fields are not for use here.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}

/// The scaling events of Amazon RDS for a serverless cluster. Capacities are ACUs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the words of the texts below")]
pub enum RdsEvent {
    /// 0141
    Scaling { from: u32, to: u32, reason: String },
    /// 0142
    Scaled { from: u32, to: u32 },
    /// 0143
    ScalingFailed { from: u32, to: u32, reason: String },
    /// 0144
    Pausing,
    /// 0145
    Paused,
    /// 0146
    PauseCanceled,
    /// 0147
    Resuming,
    /// 0148
    Resumed,
    /// 0149
    ScaledForced { from: u32, to: u32, reason: String },
}

impl RdsEvent {
    /// Reason of 0141 when the autoscaler asked (observed).
    pub const AUTOSCALING: &'static str = "Autoscaling";
    /// Reason of 0141 when a parameter group changed (observed).
    pub const APPLY_PARAMETERS: &'static str = "Apply database parameters";
    /// Reason of 0143 and 0149 when the time ran out (the original's words are not known).
    pub const NO_SCALING_POINT: &'static str = "A scaling point wasn't found";
    /// Reason of 0141 when an operator asked (the original's words are not known).
    pub const MANUAL: &'static str = "Manual scaling";

    /// "RDS-EVENT-0141" and so on.
    pub fn id(&self) -> &'static str {
        match self {
            Self::Scaling { .. } => "RDS-EVENT-0141",
            Self::Scaled { .. } => "RDS-EVENT-0142",
            Self::ScalingFailed { .. } => "RDS-EVENT-0143",
            Self::Pausing => "RDS-EVENT-0144",
            Self::Paused => "RDS-EVENT-0145",
            Self::PauseCanceled => "RDS-EVENT-0146",
            Self::Resuming => "RDS-EVENT-0147",
            Self::Resumed => "RDS-EVENT-0148",
            Self::ScaledForced { .. } => "RDS-EVENT-0149",
        }
    }

    /// [`Event::kind`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scaling { .. } => "scaling",
            Self::Scaled { .. } => "scaled",
            Self::ScalingFailed { .. } => "scaling_failed",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::PauseCanceled => "pause_canceled",
            Self::Resuming => "resuming",
            Self::Resumed => "resumed",
            Self::ScaledForced { .. } => "scaled_forced",
        }
    }

    /// The text of Amazon RDS, word for word.
    pub fn message(&self) -> String {
        let units = |from: &u32, to: &u32| format!("from {from} capacity units to {to} capacity units");
        match self {
            Self::Scaling { from, to, reason } => {
                format!("Scaling DB cluster {} for this reason: {reason}.", units(from, to))
            }
            Self::Scaled { from, to } => format!("The DB cluster has scaled {}.", units(from, to)),
            Self::ScalingFailed { from, to, reason } => {
                format!("The DB cluster failed to scale {} for this reason: {reason}.", units(from, to))
            }
            Self::Pausing => "The DB cluster is being paused.".to_owned(),
            Self::Paused => "The DB cluster is paused.".to_owned(),
            Self::PauseCanceled => "Pause was canceled for the DB cluster.".to_owned(),
            Self::Resuming => "The DB cluster is being resumed.".to_owned(),
            Self::Resumed => "The DB cluster is resumed.".to_owned(),
            Self::ScaledForced { from, to, reason } => format!(
                "The DB cluster has scaled {}, but scaling wasn't seamless for this reason: {reason}.",
                units(from, to)
            ),
        }
    }

    fn change(&self) -> Option<(u32, u32, Option<&str>)> {
        match self {
            Self::Scaling { from, to, reason }
            | Self::ScalingFailed { from, to, reason }
            | Self::ScaledForced { from, to, reason } => Some((*from, *to, Some(reason))),
            Self::Scaled { from, to } => Some((*from, *to, None)),
            _ => None,
        }
    }
}

/// A moment as RFC 3339 in UTC with milliseconds; before 1970 it is 1970.
pub fn rfc3339_utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date of a day number: years begin in March, so that the leap day is the last of its year.
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (1_743_379_200_000, "2025-03-31T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(rfc3339_utc(UNIX_EPOCH + Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn texts_of_amazon_rds() {
        let reason = RdsEvent::AUTOSCALING.to_owned();
        let event = RdsEvent::Scaling { from: 2, to: 4, reason };
        assert_eq!(
            event.message(),
            "Scaling DB cluster from 2 capacity units to 4 capacity units for this reason: Autoscaling."
        );
        assert_eq!(
            RdsEvent::Scaled { from: 2, to: 4 }.message(),
            "The DB cluster has scaled from 2 capacity units to 4 capacity units."
        );
        let made = Event::rds(UNIX_EPOCH, "orders", &event);
        let json = serde_json::to_value(&made).unwrap();
        assert_eq!(json["event_id"], "RDS-EVENT-0141");
        assert_eq!((&json["from"], &json["to"], &json["kind"]), (&2.into(), &4.into(), &"scaling".into()));
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), made);
    }
}
