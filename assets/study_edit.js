function openEdit() {}
