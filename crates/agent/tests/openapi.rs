//! The committed OpenAPI document is the one that the code describes.

use std::path::Path;

#[test]
fn the_committed_document_has_not_drifted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let described = drover_agent::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("DROVER_BLESS").is_some() {
        std::fs::write(&path, &described).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == described, "docs/openapi.json is out of date: run this test with DROVER_BLESS=1");
}
