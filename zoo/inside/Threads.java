import java.io.*;
import java.net.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

/** Two hundred threads that pass numbers on, allocate, and wait for each other; a line "N" over TCP is answered with N + 1. */
public class Threads {
    static final AtomicLong passed = new AtomicLong();
    static final AtomicLong wrong = new AtomicLong();

    public static void main(String[] arguments) throws Exception {
        int pairs = 100;
        for (int pair = 0; pair < pairs; pair++) {
            var queue = new SynchronousQueue<long[]>();
            daemon(() -> {
                for (long next = 1;; next++) {
                    long[] block = new long[256];
                    java.util.Arrays.fill(block, next);
                    queue.put(block);
                    Thread.sleep(5);
                }
            });
            daemon(() -> {
                for (long next = 1;; next++) {
                    for (long number : queue.take()) if (number != next) wrong.incrementAndGet();
                    passed.incrementAndGet();
                }
            });
        }
        var server = new ServerSocket(8080);
        System.out.println("ready");
        while (true) {
            var socket = server.accept();
            daemon(() -> answer(socket));
        }
    }

    static void answer(Socket socket) throws Exception {
        var in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
        var out = new PrintWriter(socket.getOutputStream(), true);
        for (String line; (line = in.readLine()) != null;) {
            if (line.equals("state")) out.println(passed.get() + " " + wrong.get());
            else out.println(Long.parseLong(line) + 1);
        }
    }

    interface Work { void run() throws Exception; }

    static void daemon(Work work) {
        var thread = new Thread(() -> {
            try { work.run(); } catch (Exception error) { error.printStackTrace(); wrong.incrementAndGet(); }
        });
        thread.setDaemon(true);
        thread.start();
    }
}
