//! Shows the commands of the slow log and of taps, one on each line.

use serde_json::Value;

/// Returns true if an entry of a list is a command with its times.
pub(super) fn is_command(entry: &Value) -> bool {
    entry.get("parts_us").is_some()
}

/// Returns one command as a line for people, without a line end.
///
/// Every text in it comes from respgate's JSON, so it may hold what a client sent: control characters are replaced.
pub(super) fn command_line(entry: &Value) -> String {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut line = format!(
        "{} {} {} {} {}",
        clock(entry.get("time").and_then(Value::as_f64).unwrap_or_default()),
        milliseconds(entry.get("total_us")),
        text("class"),
        text("upstream"),
        text("command")
    );
    let quoted = |line: &mut String, name: &str, value: &str| {
        if !value.is_empty() {
            line.push_str(&format!(" {name}={value}"));
        }
    };
    quoted(&mut line, "key", &text("key").replace(" bytes ", "B"));
    let arguments = entry.get("arguments").and_then(Value::as_array).into_iter().flatten();
    let arguments: Vec<String> =
        arguments.filter_map(Value::as_str).map(|text| format!("{text:?}")).collect();
    quoted(&mut line, "arguments", &arguments.join(","));
    let parts = entry.get("parts_us").and_then(Value::as_object).into_iter().flatten();
    for (name, time) in parts.filter(|(_, time)| time.as_u64() != Some(0)) {
        line.push_str(&format!(" {name}={}", milliseconds(Some(time))));
    }
    let client = entry.get("client").and_then(Value::as_u64).unwrap_or_default();
    line.push_str(&format!(" client={client}"));
    for name in ["address", "name", "user", "tenant"] {
        quoted(&mut line, name, text(name));
    }
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Returns the time of day in UTC.
fn clock(seconds: f64) -> String {
    let milliseconds = (seconds * 1000.0).round() as u64 % 86_400_000;
    let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
    format!("{:02}:{:02}:{:02}.{milliseconds:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn milliseconds(micros: Option<&Value>) -> String {
    let micros = micros.and_then(Value::as_u64).unwrap_or_default();
    format!("{}.{:03}ms", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_command_is_one_line() {
        let entry = json!({
            "time": 1_764_352_800.25, "upstream": "main", "client": 7, "address": "127.0.0.1:5", "name": "a\nb",
            "tenant": "", "user": "default", "class": "shared", "command": "GET", "key": "3 bytes #01234567",
            "arguments": [], "bytes": 22, "total_us": 120_500,
            "parts_us": { "limit": 0, "hold": 0, "wait": 100, "server": 120_390, "respgate": 10 },
        });
        assert_eq!(
            command_line(&entry),
            "18:00:00.250Z 120.500ms shared main GET key=3B#01234567 respgate=0.010ms server=120.390ms wait=0.100ms \
             client=7 address=127.0.0.1:5 name=a?b user=default"
        );
    }
}
