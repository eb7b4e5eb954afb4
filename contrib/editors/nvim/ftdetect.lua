vim.filetype.add({ extension = { epl = "epl" } })
