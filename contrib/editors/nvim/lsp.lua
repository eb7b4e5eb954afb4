-- The language server of elasticity policies.
return {
  cmd = { "plasmactl", "lsp" },
  filetypes = { "epl" },
  root_markers = { "plasma.toml", "manifest.toml", ".git" },
}
