// A web server that counts: POST / gives the next number of this connection's own counter, as JSON.
const http = require('http');
const counters = new WeakMap();
const server = http.createServer((request, response) => {
  const next = (counters.get(request.socket) || 0) + 1;
  counters.set(request.socket, next);
  const body = JSON.stringify({ next });
  response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': body.length });
  response.end(body);
});
server.keepAliveTimeout = 600000;
server.requestTimeout = 0;
server.listen(8080, '::', () => console.log('ready'));
