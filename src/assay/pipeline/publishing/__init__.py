"""The steps of publishing; `assay.pipeline.publish` lists them."""
