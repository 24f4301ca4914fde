// The elements of a viewer. They hold no texts of users.

export const VIEWER_HTML = `
<div class="layout">
  <div class="pictures">
    <figure class="seen">
      <h3>Image <small>framed: what the network sees</small></h3>
      <div class="picture">
        <img><svg aria-hidden="true" preserveAspectRatio="none"><path class="halo"/><path class="crop"/><g class="located"></g></svg>
      </div>
      <div class="inspector-line" role="status"></div>
    </figure>
    <figure class="mapped">
      <h2><span>Why</span> <input class="class" aria-label="Class" autocomplete="off"><datalist></datalist>
        <span>rather than</span>
        <input class="against" aria-label="Rather than" autocomplete="off"><datalist></datalist></h2>
      <div class="inspector-photo picture" tabindex="0" role="application">
        <canvas class="base" aria-hidden="true"></canvas><canvas class="map" role="img"></canvas>
        <svg aria-hidden="true" preserveAspectRatio="none">
          <g class="located"></g><path class="masked"/><path class="halo"/><path class="field"/><path class="hovered"/><path class="cell"/>
          <path class="center-halo"/><path class="center"/>
        </svg>
      </div>
      <div class="below">
        <div class="bar">
          <canvas role="img"></canvas><div class="ticks"><span></span><span></span><span></span></div>
        </div>
        <div class="legend" role="list"></div>
        <p class="meaning"></p>
      </div>
    </figure>
    <div class="controls"></div>
    <div class="found" aria-live="polite" hidden></div>
    <div class="card without" aria-live="polite"></div>
  </div>
  <div class="side">
    <h3>Prediction</h3>
    <div class="inspector-classes">
      <div class="head" aria-hidden="true"><span>class</span><span>probability</span><span>logit</span></div>
      <div role="radiogroup" aria-label="Top classes with their numbers"></div>
    </div>
    <div class="find">
      <span><input class="any" data-empty aria-label="Any class" autocomplete="off"><datalist></datalist></span>
      <label><input type="checkbox" class="pin"> keep for the next photo</label>
      <p class="part small" hidden></p>
    </div>
    <div class="card sum"><p class="equation"></p><p class="verdict"></p><p class="finer small" role="status" hidden></p></div>
    <div class="card chosen" aria-live="polite"></div>
  </div>
</div>`;
