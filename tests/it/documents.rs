//! The documents name every key, limit and metric that there is: a new one without a word about it
//! fails here.

use std::path::Path;

use headpond::config::{self, Limits};
use headpond::telemetry::metrics::Metrics;
use serde_json::Value;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Every name of a property, wherever it stands in the schema.
fn property_names(schema: &Value, names: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                if let ("properties", Value::Object(properties)) = (key.as_str(), value) {
                    names.extend(properties.keys().cloned());
                }
                property_names(value, names);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| property_names(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn configuration_document_names_every_key() {
    let text = document("docs/configuration.md");
    let mut names = Vec::new();
    property_names(&serde_json::to_value(config::schema()).unwrap(), &mut names);
    assert!(names.len() > 50, "{names:?}");
    let is_named = |name: &str| text.contains(&format!("`{name}`")) || text.contains(&format!(".{name}`"));
    let missing: Vec<_> = names.iter().filter(|name| !is_named(name)).collect();
    assert!(missing.is_empty(), "docs/configuration.md says nothing of {missing:?}");
}

/// `| `name` † | 10s | …`, for every limit with the default that it has.
#[test]
fn configuration_document_has_the_defaults_of_limits() {
    let text = document("docs/configuration.md");
    let section = text.split("## `limits`").nth(1).unwrap();
    let rows: Vec<(&str, &str)> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches(" †").trim_end_matches('`'), cells.next()?))
        })
        .collect();
    let yaml: String = rows.iter().map(|(name, default)| format!("  {name}: {default}\n")).collect();
    let read = config::Config::parse(&format!("limits:\n{yaml}"), Path::new("")).unwrap().limits;
    assert_eq!(read, Limits::default());
    let debug = format!("{:?}", Limits::default());
    assert_eq!(rows.len(), debug.matches(": ").count(), "a limit is missing, or there is one too many");
}

#[test]
fn operating_document_names_every_metric() {
    let text = document("docs/operating.md");
    let metrics = Metrics::new().unwrap();
    let rule = metrics.for_rule("rule");
    rule.asked_upstream("GET", 200, 0.1);
    rule.asked_token("issued");
    rule.quota(Some(100), 20);
    metrics.request_answered("blob", "GET", 200, 0.1);
    metrics.storage_failed("write");
    let exposed = String::from_utf8(metrics.expose().unwrap()).unwrap();
    let names: Vec<&str> = exposed.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let own = names.iter().filter(|name| !name.starts_with("process_"));
    let missing: Vec<_> = own.filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(names.len() > 20 && missing.is_empty(), "docs/operating.md says nothing of {missing:?}");
}
