"""The API server's schemas, without an API server."""

import kubernetes_validate

VERSIONS = kubernetes_validate.utils.all_versions()


def problem(manifest: dict, version: str) -> str | None:
    """What is wrong with a manifest, strictly: a field that the schema does not know is wrong."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{manifest['kind']}: {'.'.join(str(step) for step in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return error.message
    return None
