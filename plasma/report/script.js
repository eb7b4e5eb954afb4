(function () {
  var words = document.getElementById("words"), done = document.getElementById("done");
  if (!words || !done) return;
  var rows = document.querySelectorAll("#decisions tbody tr");
  function show() {
    var want = words.value.toLowerCase();
    rows.forEach(function (row) {
      var hit = row.textContent.toLowerCase().indexOf(want) >= 0;
      row.hidden = !hit || done.checked && row.dataset.done !== "yes";
    });
  }
  words.addEventListener("input", show);
  done.addEventListener("change", show);
})();
