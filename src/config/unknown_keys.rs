//! Keys that the file may not have: typing mistakes, and parts that this version does not have.

use serde_json::Value;

use super::problems::Problems;
use super::schema::inline_schema;

/// Keys of later versions, with list indices left out.
const NOT_AVAILABLE: [&str; 3] = ["registry", "auth.access_keys", "auth.ecr_tokens"];

/// One step of the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// `rules[2].upstream`.
pub(super) fn path_text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Reports the key at the end of `steps`, which no shape knows.
pub(super) fn report(steps: &[Step], problems: &mut Problems) {
    let keys: Vec<&str> = steps.iter().filter_map(|step| if let Step::Key(key) = step { Some(key.as_str()) } else { None }).collect();
    let path = path_text(steps);
    if NOT_AVAILABLE.contains(&keys.join(".").as_str()) {
        problems.add(path, "is not available in this version", "remove it");
        return;
    }
    let Some((key, parents)) = keys.split_last() else { return };
    let known = known_keys(parents);
    let close = known.iter().map(|name| (strsim::damerau_levenshtein(key, name), name)).min();
    let hint = match close {
        Some((distance, name)) if distance <= (key.len() / 3).max(1) => format!("did you mean `{name}`?"),
        _ => format!("known here: {}", known.join(", ")),
    };
    problems.add(path, "unknown key", hint);
}

/// The keys that a mapping at `parents` may have, from the schema.
fn known_keys(parents: &[&str]) -> Vec<String> {
    let root = inline_schema();
    let found = parents.iter().try_fold(&root, |schema, key| find_property(schema, key));
    let mut keys: Vec<String> = found.map(|schema| alternatives(schema)).unwrap_or_default().into_iter().flat_map(property_names).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn find_property<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    alternatives(schema).into_iter().find_map(|schema| schema.get("properties")?.get(key))
}

/// The schema, what it may be instead, and what its list may hold.
fn alternatives(schema: &Value) -> Vec<&Value> {
    let any_of = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let mut all = vec![schema];
    all.extend(any_of.chain(schema.get("items")).flat_map(alternatives));
    all
}

fn property_names(schema: &Value) -> Vec<String> {
    schema.get("properties").and_then(Value::as_object).map(|properties| properties.keys().cloned().collect()).unwrap_or_default()
}
