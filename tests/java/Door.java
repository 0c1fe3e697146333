import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Array;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A person with Java: does over the real JDBC driver what a line on standard input says, and prints one line of JSON for it.
 *
 * <p>Words are separated by tabs; the first is the verb, the second the name of a connection or of a prepared statement. What
 * fails is an answer too: {@code {"error": {"class", "message", "state"}}}. tests/java/door.py drives it.
 */
public final class Door {
  private static final Map<String, Connection> CONNECTIONS = new LinkedHashMap<>();
  private static final Map<String, PreparedStatement> PREPARED = new LinkedHashMap<>();
  private static final Map<String, Asking> ASKING = new LinkedHashMap<>();

  private Door() {}

  public static void main(String[] arguments) throws Exception {
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String[] words = line.split("\t", -1);
      Object answer;
      try {
        answer = answer(words);
      } catch (Exception | Error failure) {
        answer = Map.of("error", told(failure));
      }
      out.println(json(answer));
    }
    for (Connection connection : CONNECTIONS.values()) {
      connection.close();
    }
  }

  private static Object answer(String[] words) throws Exception {
    String name = words[1];
    switch (words[0]) {
      case "open":
        CONNECTIONS.put(name, DriverManager.getConnection(words[2]));
        return Map.of("valid", CONNECTIONS.get(name).isValid(10));
      case "close":
        CONNECTIONS.remove(name).close();
        return Map.of();
      case "query":
        try (Statement statement = CONNECTIONS.get(name).createStatement();
            ResultSet rows = statement.executeQuery(words[2])) {
          return read(rows);
        }
      case "update":
        try (Statement statement = CONNECTIONS.get(name).createStatement()) {
          return Map.of("changed", statement.executeUpdate(words[2]));
        }
      case "prepare":
        PREPARED.put(words[2], CONNECTIONS.get(name).prepareStatement(words[3]));
        return prepared(PREPARED.get(words[2]));
      case "execute":
        return execute(PREPARED.get(name), Arrays.asList(words).subList(2, words.length));
      case "release":
        PREPARED.remove(name).close();
        return Map.of();
      case "ask":
        ASKING.put(name, new Asking(CONNECTIONS.get(name).createStatement(), words[2]));
        ASKING.get(name).start();
        return Map.of();
      case "cancel":
        return ASKING.remove(name).cancel();
      default:
        return metadata(words[0], CONNECTIONS.get(name).getMetaData(), words);
    }
  }

  private static Object metadata(String verb, DatabaseMetaData about, String[] words) throws SQLException {
    switch (verb) {
      case "about":
        return Map.of(
            "product", about.getDatabaseProductName(),
            "version", about.getDatabaseProductVersion(),
            "readOnly", about.isReadOnly(),
            "transactions", about.supportsTransactions(),
            "quote", about.getIdentifierQuoteString());
      case "catalogs":
        return read(about.getCatalogs());
      case "schemas":
        return read(words.length > 2 ? about.getSchemas(pattern(words[2]), pattern(words[3])) : about.getSchemas());
      case "tables":
        return read(about.getTables(pattern(words[2]), pattern(words[3]), pattern(words[4]), null));
      case "columns":
        return read(about.getColumns(pattern(words[2]), pattern(words[3]), pattern(words[4]), pattern(words[5])));
      case "tabletypes":
        return read(about.getTableTypes());
      case "primarykeys":
        return read(about.getPrimaryKeys(pattern(words[2]), pattern(words[3]), pattern(words[4])));
      case "importedkeys":
        return read(about.getImportedKeys(pattern(words[2]), pattern(words[3]), pattern(words[4])));
      default:
        throw new IllegalArgumentException("no verb " + verb);
    }
  }

  /** An empty word is no condition. */
  private static String pattern(String word) {
    return word.isEmpty() ? null : word;
  }

  private static Object prepared(PreparedStatement statement) throws SQLException {
    ParameterMetaData parameters = statement.getParameterMetaData();
    return Map.of("parameters", parameters.getParameterCount(), "columns", columns(statement.getMetaData()));
  }

  /** Binds words of the form {@code type:value}. */
  private static Object execute(PreparedStatement statement, List<String> values) throws SQLException {
    for (int place = 1; place <= values.size(); place++) {
      String[] word = values.get(place - 1).split(":", 2);
      switch (word[0]) {
        case "int":
          statement.setInt(place, Integer.parseInt(word[1]));
          break;
        case "long":
          statement.setLong(place, Long.parseLong(word[1]));
          break;
        case "double":
          statement.setDouble(place, Double.parseDouble(word[1]));
          break;
        case "decimal":
          statement.setBigDecimal(place, new BigDecimal(word[1]));
          break;
        case "text":
          statement.setString(place, word[1]);
          break;
        default:
          throw new IllegalArgumentException("no type " + word[0]);
      }
    }
    try (ResultSet rows = statement.executeQuery()) {
      return read(rows);
    }
  }

  /** A statement that a thread waits for. */
  private static final class Asking {
    private final Statement statement;
    private final Thread thread;
    private volatile Object answer;

    Asking(Statement statement, String sql) {
      this.statement = statement;
      this.thread =
          new Thread(
              () -> {
                try (ResultSet rows = statement.executeQuery(sql)) {
                  answer = read(rows);
                } catch (Exception | Error failure) {
                  answer = Map.of("error", told(failure));
                }
              });
    }

    void start() {
      thread.start();
    }

    Object cancel() throws Exception {
      statement.cancel();
      thread.join(30_000);
      Object found = thread.isAlive() ? Map.of("alive", true) : answer;
      statement.close();
      return found;
    }
  }

  private static Map<String, Object> read(ResultSet rows) throws SQLException {
    ResultSetMetaData about = rows.getMetaData();
    List<Object> columns = columns(about);
    List<Object> found = new ArrayList<>();
    while (rows.next()) {
      List<Object> row = new ArrayList<>();
      for (int place = 1; place <= columns.size(); place++) {
        row.add(value(held(rows, place, about.getColumnType(place))));
      }
      found.add(row);
    }
    Map<String, Object> answer = new LinkedHashMap<>();
    answer.put("columns", columns);
    answer.put("rows", found);
    return answer;
  }

  /** The driver's getObject() is not implemented for instants; its getTimestamp() is. */
  private static Object held(ResultSet rows, int place, int type) throws SQLException {
    return type == Types.TIMESTAMP_WITH_TIMEZONE ? rows.getTimestamp(place) : rows.getObject(place);
  }

  private static List<Object> columns(ResultSetMetaData about) throws SQLException {
    List<Object> found = new ArrayList<>();
    for (int place = 1; about != null && place <= about.getColumnCount(); place++) {
      Map<String, Object> column = new LinkedHashMap<>();
      column.put("label", about.getColumnLabel(place));
      column.put("type", about.getColumnType(place));
      column.put("name", about.getColumnTypeName(place));
      column.put("precision", about.getPrecision(place));
      column.put("scale", about.getScale(place));
      found.add(column);
    }
    return found;
  }

  /** Gives a value as JSON can hold it: everything that is no list and no map is a text with its class, so that none is rounded. */
  private static Object value(Object held) throws SQLException {
    if (held == null) {
      return null;
    }
    if (held instanceof java.sql.Array) {
      return value(((java.sql.Array) held).getArray());
    }
    if (held instanceof byte[]) {
      StringBuilder digits = new StringBuilder();
      for (byte each : (byte[]) held) {
        digits.append(String.format("%02x", each));
      }
      return List.of("byte[]", digits.toString());
    }
    if (held.getClass().isArray()) {
      List<Object> found = new ArrayList<>();
      for (int place = 0; place < Array.getLength(held); place++) {
        found.add(value(Array.get(held, place)));
      }
      return List.of("list", found);
    }
    if (held instanceof Iterable) {
      List<Object> found = new ArrayList<>();
      for (Object each : (Iterable<?>) held) {
        found.add(value(each));
      }
      return List.of("list", found);
    }
    if (held instanceof Map) {
      List<Object> found = new ArrayList<>();
      for (Map.Entry<?, ?> entry : ((Map<?, ?>) held).entrySet()) {
        found.add(Arrays.asList(value(entry.getKey()), value(entry.getValue())));
      }
      return List.of("map", found);
    }
    String text = held instanceof BigDecimal ? ((BigDecimal) held).toPlainString() : held.toString();
    return List.of(held.getClass().getSimpleName(), text);
  }

  private static Map<String, Object> told(Throwable failure) {
    Map<String, Object> found = new LinkedHashMap<>();
    found.put("class", failure.getClass().getSimpleName());
    found.put("message", String.valueOf(failure.getMessage()));
    found.put("state", failure instanceof SQLException ? ((SQLException) failure).getSQLState() : null);
    StringBuilder causes = new StringBuilder();
    for (Throwable cause = failure.getCause(); cause != null; cause = cause.getCause()) {
      causes.append(cause.getMessage()).append("; ");
    }
    found.put("cause", causes.toString());
    return found;
  }

  private static String json(Object held) {
    if (held == null || held instanceof Boolean || held instanceof Integer) {
      return String.valueOf(held);
    }
    StringBuilder out = new StringBuilder();
    if (held instanceof Map) {
      String between = "{";
      for (Map.Entry<?, ?> entry : ((Map<?, ?>) held).entrySet()) {
        out.append(between).append(json(entry.getKey())).append(": ").append(json(entry.getValue()));
        between = ", ";
      }
      return out.append(((Map<?, ?>) held).isEmpty() ? "{}" : "}").toString();
    }
    if (held instanceof List) {
      String between = "[";
      for (Object each : (List<?>) held) {
        out.append(between).append(json(each));
        between = ", ";
      }
      return out.append(((List<?>) held).isEmpty() ? "[]" : "]").toString();
    }
    out.append('"');
    for (char each : held.toString().toCharArray()) {
      if (each == '"' || each == '\\') {
        out.append('\\').append(each);
      } else if (each < ' ' || Character.isSurrogate(each)) {
        out.append(String.format("\\u%04x", (int) each));
      } else {
        out.append(each);
      }
    }
    return out.append('"').toString();
  }
}
