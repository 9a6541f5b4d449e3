//! The options of a pod's logs (`PodLogOptions`), which come as a query: the API server and the kubelet both check them.

use apimachinery::{Cause, Status};
use jiff::Timestamp;
use serde_json::Value;

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether to go on with what is written later.
    pub follow: bool,
    /// That of the container before the one that runs now.
    pub previous: bool,
    /// Whether each line begins with its time (RFC 3339).
    pub timestamps: bool,
    /// Lines of the last so many seconds alone.
    pub since_seconds: Option<i64>,
    /// Lines from this moment on alone.
    pub since_time: Option<Timestamp>,
    /// The last so many lines alone.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

impl LogOptions {
    /// Reads the decoded parameters of a query; `pod` is named in a refusal.
    ///
    /// # Errors
    /// 400 for what is no number or time, 422 for numbers out of their range, in upstream's words.
    pub fn read(pod: &str, query: &[(String, String)]) -> Result<Self, Status> {
        let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let flag = |name: &str| value(name).is_some_and(|text| !matches!(text, "0" | "false" | "False"));
        let number = |name: &str| -> Result<Option<i64>, Status> {
            let Some(text) = value(name).filter(|text| !text.is_empty()) else { return Ok(None) };
            let why = |error: std::num::ParseIntError| {
                use std::num::IntErrorKind::{NegOverflow, PosOverflow};
                let why = match error.kind() {
                    PosOverflow | NegOverflow => "value out of range",
                    _ => "invalid syntax",
                };
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
            };
            text.parse().map(Some).map_err(why)
        };
        let time = value("sinceTime").filter(|text| !text.is_empty()).map(|text| {
            text.parse::<Timestamp>()
                .map_err(|_| Status::bad_request(format!("parsing time {text:?}: it must be RFC 3339")))
        });
        let (seconds, tail, limit) = (number("sinceSeconds")?, number("tailLines")?, number("limitBytes")?);
        let time = time.transpose()?;
        let mut causes = Vec::new();
        let mut refuse =
            |field: &str, value: i64, why: &str| causes.push(Cause::invalid(field, &Value::from(value), why));
        if let Some(lines) = tail.filter(|lines| *lines < 0) {
            refuse("tailLines", lines, "must be greater than or equal to 0");
        }
        if let Some(bytes) = limit.filter(|bytes| *bytes < 1) {
            refuse("limitBytes", bytes, "must be greater than 0");
        }
        match seconds {
            Some(_) if time.is_some() => {
                causes.push(Cause::forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
            }
            Some(seconds) if seconds < 1 => refuse("sinceSeconds", seconds, "must be greater than 0"),
            _ => {}
        }
        if !causes.is_empty() {
            return Err(Status::invalid("", "PodLogOptions", pod, causes));
        }
        Ok(LogOptions {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            since_seconds: seconds,
            since_time: time,
            tail_lines: tail.and_then(|lines| u64::try_from(lines).ok()),
            limit_bytes: limit.and_then(|bytes| u64::try_from(bytes).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<LogOptions, (u16, String)> {
        let pairs: Vec<(String, String)> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        LogOptions::read("p", &pairs).map_err(|status| (status.code, status.message))
    }

    #[test]
    fn numbers_out_of_their_range_are_refused_in_upstreams_words() {
        for (query, code, says) in [
            ("sinceSeconds=0", 422, "sinceSeconds: Invalid value: 0: must be greater than 0"),
            ("sinceSeconds=-9223372036854775808", 422, "must be greater than 0"),
            ("tailLines=-1", 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
            ("limitBytes=0", 422, "limitBytes: Invalid value: 0: must be greater than 0"),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422, "at most one of `sinceTime` or `sinceSeconds`"),
            ("sinceSeconds=abc", 400, "strconv.ParseInt: parsing \"abc\": invalid syntax"),
            ("tailLines=9223372036854775808", 400, "value out of range"),
            ("sinceTime=yesterday", 400, "yesterday"),
        ] {
            let (told, message) = read(query).unwrap_err();
            assert!(told == code && message.contains(says), "{query}: {told} {message}");
        }
        let many = read("tailLines=-1&limitBytes=0").unwrap_err().1;
        assert!(many.starts_with("PodLogOptions \"p\" is invalid: [tailLines"), "{many}");
    }

    #[test]
    fn options_are_read() {
        let most = "sinceSeconds=9223372036854775807&tailLines=9223372036854775807&limitBytes=9223372036854775807";
        assert_eq!(read(most).unwrap().since_seconds, Some(i64::MAX));
        let options = read("follow=true&previous=false&timestamps&tailLines=0").unwrap();
        assert!(options.follow && !options.previous && options.timestamps);
        assert_eq!((options.tail_lines, options.limit_bytes), (Some(0), None));
        assert_eq!(read("").unwrap(), LogOptions::default());
    }
}
