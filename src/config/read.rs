//! From the file to raw shapes, with every wrong shape and every unknown key reported.
//!
//! A shape that is wrong is reported, taken out, and the rest read again: so one run finds them all.

use std::path::Path;

use serde_json::Value;

use super::problems::Problems;
use super::raw::RawConfig;
use super::unknown_keys::{self, Step, path_text};

/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Most shapes that are taken out of one file.
const MAX_ROUNDS: usize = 100;

pub(super) fn read(path: &Path, problems: &mut Problems) -> RawConfig {
    let text = std::fs::metadata(path).and_then(|metadata| {
        if metadata.len() > MAX_FILE_BYTES {
            return Err(std::io::Error::other(format!("the file is larger than {MAX_FILE_BYTES} bytes")));
        }
        std::fs::read_to_string(path)
    });
    match text {
        Ok(text) => parse(&text, problems),
        Err(error) => {
            problems.add("", error.to_string(), "name an existing YAML file; `headpond serve` without --config runs with defaults");
            RawConfig::default()
        }
    }
}

pub(super) fn parse(text: &str, problems: &mut Problems) -> RawConfig {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let value = match serde_saphyr::from_str_with_options::<Value>(text, options) {
        Ok(value @ Value::Object(_)) => {
            report_nulls(&value, &mut Vec::new(), problems);
            value
        }
        Ok(Value::Null) => {
            problems.add("", "the file is empty", "leave --config out to run with defaults, or name at least one rule");
            return RawConfig::default();
        }
        Ok(_) => {
            problems.add("", "the file is not a mapping of keys to values", "start with a key such as `rules:`");
            return RawConfig::default();
        }
        Err(error) => {
            let message = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
            problems.add("", format!("not YAML that can be read: {message}"), "check indentation, quotes and keys written twice");
            return RawConfig::default();
        }
    };
    deserialize(value, problems)
}

fn deserialize(mut value: Value, problems: &mut Problems) -> RawConfig {
    for _ in 0..MAX_ROUNDS {
        let mut unknown = Vec::new();
        let mut ignored = |path: serde_ignored::Path<'_>| unknown.push(ignored_steps(&path));
        let deserializer = serde_ignored::Deserializer::new(&value, &mut ignored);
        match serde_path_to_error::deserialize::<_, RawConfig>(deserializer) {
            Ok(raw) => {
                unknown.iter().for_each(|steps| unknown_keys::report(steps, problems));
                return raw;
            }
            Err(error) => {
                let steps = steps_of(error.path());
                problems.add(path_text(&steps), error.inner().to_string(), "");
                if !remove(&mut value, &steps) {
                    return RawConfig::default();
                }
            }
        }
    }
    RawConfig::default()
}

/// A key without a value is more likely a mistake than a wish for the default: `tls:` alone must not
/// give a plain listener.
fn report_nulls(value: &Value, steps: &mut Vec<Step>, problems: &mut Problems) {
    let mut descend = |step: Step, value: &Value| {
        steps.push(step);
        report_nulls(value, steps, problems);
        steps.pop();
    };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| descend(Step::Key(key.clone()), value)),
        Value::Array(list) => list.iter().enumerate().for_each(|(index, value)| descend(Step::Index(index), value)),
        Value::Null => problems.add(path_text(steps), "has no value", "write one, or leave the key out for its default"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes the value at `steps` out: a key is removed, an element of a list becomes null so that the
/// others keep their index. False if there is nothing to take out.
fn remove(value: &mut Value, steps: &[Step]) -> bool {
    let Some((last, parents)) = steps.split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    });
    match (parent, last) {
        (Some(Value::Object(object)), Step::Key(key)) => object.remove(key).is_some(),
        (Some(Value::Array(list)), Step::Index(index)) => list.get_mut(*index).is_some_and(|element| !element.take().is_null()),
        _ => false,
    }
}

fn steps_of(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

fn ignored_steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = ignored_steps(parent);
    steps.extend(step);
    steps
}
