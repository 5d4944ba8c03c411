//! The chart's schema holds that of the configuration, so that Helm refuses a wrong key of `config` before a pod does.

use std::path::Path;

use headpond::config;
use serde_json::{Map, Value, json};

/// Turns the references of JSON Schema 2020-12 into those of draft 7, which every Helm knows.
fn as_draft_7(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref") {
                *reference = reference.replace("#/$defs/", "#/definitions/");
            }
            object.values_mut().for_each(as_draft_7);
        }
        Value::Array(list) => list.iter_mut().for_each(as_draft_7),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The definitions of the chart's schema: those of the configuration, and the configuration itself.
fn definitions() -> Value {
    let Value::Object(mut root) = config::schema() else { panic!("the schema is an object") };
    let mut definitions = match root.remove("$defs") {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    root.remove("$schema");
    definitions.insert("Config".to_owned(), Value::Object(root));
    let mut definitions = Value::Object(definitions);
    as_draft_7(&mut definitions);
    definitions
}

#[test]
fn chart_schema_holds_that_of_the_configuration() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/headpond/values.schema.json");
    let mut schema: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(schema["properties"]["config"], json!({"$ref": "#/definitions/Config"}));
    let expected = definitions();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        schema["definitions"] = expected.clone();
        std::fs::write(&file, serde_json::to_string_pretty(&schema).unwrap() + "\n").unwrap();
    }
    assert!(schema["definitions"] == expected, "run with UPDATE_DOCS=1 to write helm/headpond/values.schema.json");
}
